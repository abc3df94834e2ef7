"""How a run is to be done."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stabcheck.check import Severity
from stabcheck.suppressions import Suppression
from stabcheck.userland import UsageError


@dataclass(frozen=True)
class Options:
    """How to run. Times are in seconds.

    Raises:
        UsageError: a value cannot be meant.
    """

    select: tuple[str, ...] = ()
    """Ids of checks, codes of rules or beginnings of codes, also as one string with commas; empty for everything."""
    ignore: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    """Arguments of the entry function, as text."""
    seed: int = 0
    steps: int = 40
    """Training steps of the trial."""
    budget: float = 120.0
    """For the trial and all checks together."""
    load_timeout: float = 300.0
    """For importing the target and calling its entry function."""
    check_timeout: float = 90.0
    """For one check. It is asked to come to an end after two thirds of it."""
    device: str | None = None
    in_process: bool = False
    """Run the target in this process, for debuggers: without time limits, and a crash of it ends everything."""
    severities: Mapping[str, Severity] = field(default_factory=dict)
    """What names rules, as in `select` -> the severity of all its findings, instead of its own."""
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Id of a check -> named numbers of its file -> their values."""
    suppressions: tuple[Suppression, ...] = ()
    today: datetime.date = field(default_factory=datetime.date.today)
    """Against which suppressions expire."""
    verbose: bool = False
    """Let the target print, to standard error."""
    log: Path | None = None
    """Write what the target prints to this file, which starts anew at 64 MiB."""

    shown_as: str = ""
    """What the report calls the target; empty: as it is loaded."""
    configuration: str | None = None
    """The configuration file that these options come from, for the report."""

    def __post_init__(self) -> None:
        for name in ("select", "ignore"):
            words = getattr(self, name)
            if isinstance(words, str):  # as on the command line
                words = (word.strip() for word in words.split(","))
            object.__setattr__(self, name, tuple(word for word in words if word))
        for name in ("budget", "load_timeout", "check_timeout"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be above zero")
        if self.steps < 1:
            raise UsageError(f"--steps {self.steps}: must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: must be from 0 to {2**32 - 1}")
