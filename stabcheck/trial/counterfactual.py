"""The trial once more from another start: what a set-up would have done if one thing about it were different."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stabcheck.check import Severity
from stabcheck.reading import GROWN, STALLED, Progress, progress, starts_far_off
from stabcheck.recording import Recording
from stabcheck.trial.bench import Bench
from stabcheck.trial.session import Session
from stabcheck.trial.steps import step_losses
from stabcheck.userland import UserCodeError

HELPED = 0.2
"""Share of the way to the loss's floor that a changed set-up must come, where the unchanged one learnt nothing."""
PATIENCE = 3
"""Times the trial's steps in which the unchanged set-up must still have learnt nothing for a failure. Adam gets weights that are
a thousand times too small going within as many; what only costs some steps is a warning."""
LEFT = 0.5
"""Share of the way left, of that of a set-up which learns, that a change must bring it down to."""

Change = Callable[[Session], contextlib.AbstractContextManager[object] | None]


def unchanged(session: Session) -> None:
    """No change: the trial itself, for another number of steps."""


@dataclass(frozen=True)
class Comparison:
    """What a change brings about in a set-up that learns nothing."""

    steps: int
    own: Progress
    other: Progress
    severity: Severity
    """Whether the unchanged one stays where it is, or far behind (fail), or gets going in the end (warn)."""

    @property
    def facts(self) -> dict[str, Any]:
        """For the sentence and the evidence of a finding."""
        own, other = self.own, self.other
        return {
            "steps": self.steps, "first": own.first, "last": own.last, "better": other.last, "progress": own.share,
            "constant": own.constant if own.constant is not None else own.first, "better_progress": other.share,
        }  # fmt: skip


def compare(bench: Bench, change: Change) -> Comparison | None:
    """The trial against the trial after `change`; None if that does not help, or cannot be tried. A trial that is slow rather
    than stuck counts if it is still behind after PATIENCE times its steps.

    Raises:
        Skip: building the set-up again does not fit the budget.
    """
    recording = bench.recording
    assert recording is not None
    own, times = progress(recording), 1
    other = trained(bench, change)
    if other is None:
        return None
    longer = trained(bench, unchanged, times=PATIENCE)
    severity: Severity = "fail" if longer is not None and longer.stalled else "warn"
    if severity == "warn" and (not own.stalled or starts_far_off(recording)):
        later = trained(bench, change, times=PATIENCE) if longer is not None else None
        helped = _helped(recording, own, other)
        if longer is not None and later is not None and _is_behind(recording, longer, later, helped=helped):
            if helped:
                return Comparison(_steps(recording, 1), own, other, "fail")
            return Comparison(_steps(recording, PATIENCE), longer, later, "fail")
        if not own.stalled:
            return None
    if not _helped(recording, own, other):
        if severity == "warn" or longer is None:
            return None
        own, times, other = longer, PATIENCE, trained(bench, change, times=PATIENCE)
        if other is None or not _helped(recording, own, other):
            return None
    return Comparison(_steps(recording, times), own, other, severity)


def ahead(bench: Bench, change: Change) -> Comparison | None:
    """The trial against the trial after `change`, where both learn: the changed one is no worse at its end and, after PATIENCE
    times its steps, HELPED further on the way to the floor, with at most LEFT of what the other has left; else None.

    Raises:
        Skip: building the set-up again does not fit the budget.
    """
    assert bench.recording is not None
    own, other = progress(bench.recording), trained(bench, change)
    if other is None or own.share is None or other.share is None or other.share < own.share:
        return None
    longer, later = trained(bench, unchanged, times=PATIENCE), trained(bench, change, times=PATIENCE)
    if longer is None or later is None or longer.share is None or later.share is None:
        return None
    if later.share - longer.share < HELPED or 1 - later.share > LEFT * (1 - longer.share):
        return None
    return Comparison(_steps(bench.recording, PATIENCE), longer, later, "fail")


def _is_behind(recording: Recording, longer: Progress, later: Progress, *, helped: bool) -> bool:
    """Whether the unchanged one, though under way, has not caught up in so many steps."""
    if longer.share is None or later.share is None:
        return False
    return later.share - longer.share >= (STALLED if helped and starts_far_off(recording) else HELPED)


def _helped(recording: Recording, own: Progress, other: Progress) -> bool:
    """Whether the changed one learns, or is no worse than a constant guess where the unchanged one is far above that."""
    if own.constant is None or other.share is None:
        return False
    zero = recording.yardsticks.zero
    reference = max(own.constant, own.constant if zero is None else zero)
    return other.share >= HELPED or (reference > 0 and other.last <= reference and not own.last <= GROWN * reference)


def _steps(recording: Recording, times: int) -> int:
    """`times` the trial's, but no more than are planned: a schedule may end there."""
    wanted = times * recording.planned
    return max(recording.planned, min(wanted, recording.planned_steps or wanted))


def trained(bench: Bench, change: Change, *, times: int = 1) -> Progress | None:
    """How far `times` as many steps as the trial's come (no more than are planned), beginning with the same batches, after
    `change` was made to a fresh session; what it returns is entered around the steps. None if they cannot be taken or do not
    fit the budget.

    Raises:
        Skip: building the set-up again does not fit the budget.
    """
    recording = bench.recording
    assert recording is not None
    steps = _steps(recording, times)
    session = bench.session()
    try:
        with change(session) or contextlib.nullcontext():
            batches = (batch for _, batch in session.train_batches())
            taken = list(step_losses(session, itertools.islice(batches, steps), deadline=bench.deadline))
    except UserCodeError:
        return None
    losses = [loss for loss in taken if loss is not None]
    if len(losses) < len(taken) or not losses or bench.remaining() < 0:
        return None
    losses += losses[-1:] * (steps - len(losses))  # what is not finite does not come back
    return progress(with_losses(recording, losses))


def with_losses(recording: Recording, losses: Sequence[float]) -> Recording:
    """The Recording as if its steps had had these losses."""
    template = recording.steps[0]
    steps = tuple(replace(template, index=index, loss=loss) for index, loss in enumerate(losses))
    return replace(recording, steps=steps)
