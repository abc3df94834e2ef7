"""What happens during a run: Progress while the target is loaded, Loaded if that went well, then Progress, Recorded and
CheckFinished as they come, and Finished at the end.

The engine yields these and prints nothing; whoever listens decides what to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabcheck.recording import Recording
    from stabcheck.report import CheckResult, Report


@dataclass(frozen=True)
class Loaded:
    """The entry function returned a set-up after `seconds`; `facts` describe it (parameters, batches, keys given)."""

    seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Something is under way: the id of a check, or "loading" or "trial", and how far (0 to 1, None if unknown)."""

    doing: str
    fraction: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Recorded:
    """The trial is over and this is what was observed."""

    recording: Recording


@dataclass(frozen=True)
class CheckFinished:
    """One check has its result."""

    result: CheckResult


@dataclass(frozen=True)
class Finished:
    """The run is over; always the last event."""

    report: Report


Event = Loaded | Progress | Recorded | CheckFinished | Finished
