"""The planned run as far as a moment reaches: the loss of the same training and validation samples along the way."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.short_training import level
from stabcheck.trial.pace import Pace
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

BATCHES = 8
"""Batches of each side that the loss is taken of."""
FIRST_LOOK, NEXT_LOOK = 10, 1.5
"""Steps before the first look, and by how much longer each way to the next one is: few looks, whatever the length."""
LOOKING = 0.3
"""Share of the work that looking may be: large validation sets are looked at more rarely."""


@dataclass(frozen=True)
class Course:
    """Mean losses in eval mode after so many batches, from the untrained model on; the first training batches of an epoch
    and the first validation batches stand for all."""

    steps: tuple[int, ...]
    train: tuple[float, ...]
    val: tuple[float, ...]
    planned: int
    """Steps of the planned run, in the same unit: batches."""

    @property
    def whole(self) -> bool:
        """It reaches to the end of the planned run."""
        return self.steps[-1] >= self.planned

    @property
    def lowest(self) -> int:
        """Index of the lowest validation loss."""
        return min(range(len(self.val)), key=lambda index: self.val[index])


def planned_epochs(session: Session) -> float:
    """How often the planned run shows each sample; 0 if that is not known."""
    per_epoch, steps = session.steps_per_epoch, session.planned_steps
    return steps * session.setup.accumulate_steps / per_epoch if per_epoch and steps else 0.0


def sides_of(session: Session) -> list[list[Any]]:
    """The first batches of training and of validation.

    Raises:
        UserCodeError: a loader raised.
    """
    with kept_rng():
        return [
            [batches.clone(b) for b in itertools.islice(session.epoch(key), BATCHES)]
            for key in ("train_loader", "val_loader")
        ]


def course(
    bench: Bench, pace: Pace, *, until: Callable[[float, float], bool] = lambda train, val: False
) -> Course | None:
    """Train a fresh set-up by its plan as far as `pace` allows, or `until` both losses are as asked; None if that cannot be
    done.

    Raises:
        Skip: there is no time to build it.
    """
    session = bench.session()
    planned = session.planned_steps
    if not session.can_step or not planned:
        return None
    calls = planned * session.setup.accumulate_steps
    try:
        return _followed(bench, session, sides_of(session), calls, pace, until)
    except (UserCodeError, Skip):  # a loss that is known in the step alone
        return None


def _followed(
    bench: Bench,
    session: Session,
    sides: list[list[Any]],
    calls: int,
    pace: Pace,
    until: Callable[[float, float], bool],
) -> Course | None:
    steps: list[int] = []
    losses: list[tuple[float, float]] = []
    looked, started = 0.0, time.thread_time()

    def look(step: int) -> bool:
        nonlocal looked
        begun = time.thread_time()
        losses.append((level(session, sides[0], bench.seed), level(session, sides[1], bench.seed)))
        steps.append(step)
        looked += time.thread_time() - begun
        return all(map(math.isfinite, losses[-1]))

    if not look(0):
        return None
    upcoming, done = FIRST_LOOK, 0
    for _, batch in pace.through(itertools.islice(session.train_batches(), calls)):
        if until(*losses[-1]):
            break
        session.step(batch)
        done += 1
        if done >= upcoming and looked <= LOOKING * (time.thread_time() - started):
            upcoming = math.ceil(done * NEXT_LOOK)
            if not look(done):
                return None
    if steps[-1] != done and not look(done):
        return None
    train, val = zip(*losses, strict=True)
    return Course(tuple(steps), train, val, calls)
