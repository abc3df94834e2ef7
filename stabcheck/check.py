"""The vocabulary of a check: what may be wrong (Rule), that it is (Finding), and what was learnt (Outcome).

A check is a module with a docstring, its rules and one function, published as `CHECK`. A *diagnosis*
reads the Recording and is pure; an *experiment* uses the Bench. Neither prints, and neither raises to
report: `Skip` means that the check does not apply, any other exception is for the engine to explain.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from stabcheck.recording import Recording
    from stabcheck.trial.bench import Bench

Severity = Literal["warn", "fail"]
Source = tuple[str, int]
Cost = Literal["cheap", "dear"]

INSTALLED = "installed checks"
"""The stage of an error for which a package with checks is to blame, neither the set-up nor stabcheck."""


class Skip(Exception):  # noqa: N818 - it is no error
    """The check does not apply; the reason is a sentence for the user, with the key to add where one is missing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Finding:
    """A rule that fired, at a place. `evidence` is what the sentences were made from."""

    code: str
    severity: Severity
    message: str
    fix: str
    location: str | None = None
    source: Source | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """One coded thing that can be wrong. `name` is the fault in kebab case; `message` and `fix` are templates
    filled from a finding's evidence by `str.format`."""

    code: str
    name: str
    severity: Severity
    message: str
    fix: str
    about: tuple[str, ...] = ()
    """Keys of the set-up that it is about: a finding without a place is put where the first of them comes from that has
    one in the user's code. Empty: those of the check."""
    why: str = ""
    """Why it matters, where that is not the first paragraph of the check's own "Why it matters"."""

    def at(
        self,
        location: str | None = None,
        *,
        source: Source | None = None,
        severity: Severity | None = None,
        **evidence: Any,
    ) -> Finding:
        """The finding that this rule fired at `location` (a module or parameter path)."""
        facts = {"location": location, **evidence}
        return Finding(
            code=self.code,
            severity=severity or self.severity,
            message=self.message.format(**facts),
            fix=self.fix.format(**facts),
            location=location,
            source=source,
            evidence=evidence,
        )


@dataclass(frozen=True)
class NotChecked:
    """Something a reader might think was checked, and why it was not."""

    what: str
    why: str


@dataclass(frozen=True)
class Outcome:
    """What a check returns. The status follows from the findings and is never set."""

    summary: str
    findings: tuple[Finding, ...] = ()
    measurements: dict[str, Any] = field(default_factory=dict)
    not_checked: tuple[NotChecked, ...] = ()

    def but_not(self, what: str, why: str) -> Outcome:
        """The same outcome, with one more thing that was not checked."""
        return replace(self, not_checked=(*self.not_checked, NotChecked(what, why)))


@dataclass(frozen=True)
class Check:
    """One entry of the catalogue. `run` takes the Recording (diagnosis) or the Bench (experiment)."""

    id: str
    kind: Literal["diagnosis", "experiment"]
    title: str
    rules: tuple[Rule, ...]
    run: Callable[[Any], Outcome]
    doc: str
    needs_trial: bool = False
    cost: Cost = "cheap"
    """Experiments that are "cheap" look, or take a few steps; "dear" ones train, and run after all that are cheap."""
    about: tuple[str, ...] = ()
    """The same as of a rule, for all that have none."""
    beyond: tuple[NotChecked, ...] = ()
    """What it never looks at, whatever the set-up."""


def diagnosis(
    *,
    title: str,
    rules: tuple[Rule, ...],
    reads: tuple[str, ...] = (),
    about: tuple[str, ...] = (),
    beyond: tuple[NotChecked, ...] = (),
) -> Callable[[Callable[[Recording], Outcome]], Check]:
    """Publish a pure function of the Recording as the check named after its file. `reads` are the parts of it that may be
    missing (`Recording.not_recorded`): where one is, the outcome says so, as it does of what is `beyond` the check."""
    return lambda function: _check(
        _candid(function, reads, beyond), "diagnosis", title, rules, needs_trial=True, about=about, beyond=beyond
    )


def experiment(
    *,
    title: str,
    rules: tuple[Rule, ...],
    needs_trial: bool = False,
    reads: tuple[str, ...] = (),
    cost: Cost = "cheap",
    about: tuple[str, ...] = (),
    beyond: tuple[NotChecked, ...] = (),
) -> Callable[[Callable[[Bench], Outcome]], Check]:
    """Publish a function of the Bench as the check named after its file; `needs_trial` if it reads `bench.recording`, of
    which `reads` are the parts that may be missing, and what is `beyond` it is said of every outcome."""
    return lambda function: _check(
        _candid(function, reads, beyond),
        "experiment",
        title,
        rules,
        needs_trial=needs_trial,
        cost=cost,
        about=about,
        beyond=beyond,
    )


def _candid(
    function: Callable[[Any], Outcome], reads: tuple[str, ...], beyond: tuple[NotChecked, ...]
) -> Callable[[Any], Outcome]:
    """The function, with what it would have read and was not recorded, and what it never looks at, among what is not
    checked."""
    if not reads and not beyond:
        return function

    @functools.wraps(function)
    def run(subject: Any) -> Outcome:
        outcome, recording = function(subject), getattr(subject, "recording", subject)
        for what, why in recording.not_recorded if reads else ():
            outcome = outcome.but_not(what, why) if what in reads else outcome
        return replace(outcome, not_checked=(*outcome.not_checked, *beyond))

    return run


def _check(
    function: Callable[[Any], Outcome],
    kind: Literal["diagnosis", "experiment"],
    title: str,
    rules: tuple[Rule, ...],
    *,
    needs_trial: bool,
    cost: Cost = "cheap",
    about: tuple[str, ...],
    beyond: tuple[NotChecked, ...],
) -> Check:
    module = sys.modules[function.__module__]
    return Check(
        id=function.__module__.rpartition(".")[2].replace("_", "-"),
        kind=kind,
        title=title,
        rules=rules,
        run=function,
        doc=inspect.cleandoc(module.__doc__ or ""),
        needs_trial=needs_trial,
        cost=cost,
        about=about,
        beyond=beyond,
    )
