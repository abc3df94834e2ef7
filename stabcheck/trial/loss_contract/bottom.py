"""Whether a loss has a lowest value: how it goes on where training makes it fall."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck import stats
from stabcheck.check import Skip
from stabcheck.reading import TAIL
from stabcheck.recording import Recording
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.modes import held_by, undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.steps import step_losses
from stabcheck.userland import UserCodeError

TIMES = (1.0, 10.0, 100.0, 1000.0)
"""How many times as large a weight is made."""
LINEAR = 0.9
"""Power of the size with which a loss falls that is called without end. Densities fall like its logarithm, and what is least
somewhere rises again."""
FEWEST = 3
"""Of these losses that must be numbers: what falls exponentially soon is none."""
SECONDS = 4.0


@dataclass(frozen=True)
class Abyss:
    """A weight along which the loss falls without end."""

    parameter: str
    before: float
    ten_times: float
    hundred_times: float
    first: float
    last: float
    steps: int


def goes_down(recording: Recording) -> bool:
    """Whether the trial's loss is below zero and all that it was, and still falls."""
    losses = recording.losses
    if len(losses) < 3 * TAIL or not all(map(math.isfinite, losses)) or len(recording.optimizers) != 1:
        return False
    ends = [stats.mean(losses[-i * TAIL : len(losses) - (i - 1) * TAIL]) for i in (3, 2, 1)]
    return ends[2] < 0 and ends[2] < ends[1] < ends[0] and ends[2] < losses[0]


def abyss(bench: Bench) -> Abyss | None:
    """The trial again, and then each weight that it trains made larger and larger; None if the loss comes to an end
    everywhere, if a step puts the weight back, or if the loss cannot be had.

    Raises:
        Skip: building the set-up again does not fit the budget.
    """
    recording = bench.recording
    assert recording is not None
    deadline = min(bench.deadline, time.monotonic() + SECONDS)
    session = bench.session()
    try:
        stream = (batch for _, batch in session.train_batches())
        if len(list(step_losses(session, itertools.islice(stream, len(recording.losses)), deadline=deadline))) < TAIL:
            return None
        kept = [batches.clone(next(stream)) for _ in range(2)]
        held = held_by(session.setup.optimizer) if session.setup.optimizer is not None else None
        for name, parameter in session.model.named_parameters():
            if not parameter.requires_grad or (held is not None and id(parameter) not in held):
                continue
            if time.monotonic() > deadline:
                return None
            courses = [list(_along(session, parameter, batch, bench.seed)) for batch in kept]
            if all(map(_endless, courses)) and _stays(session, parameter, kept[0]):
                one = courses[0]
                losses = recording.losses
                last = stats.mean(losses[-TAIL:])
                return Abyss(name, one[0], one[1], one[2], losses[0], last, len(losses))
    except (UserCodeError, Skip):
        return None
    return None


def _along(session: Session, parameter: torch.Tensor, batch: Any, seed: int) -> Iterator[float]:
    before = parameter.detach().clone()
    with undisturbed(session.model), kept_rng():
        session.model.eval()
        for times in TIMES:
            with torch.no_grad():
                parameter.copy_(before * times)
            with kept_rng(seed):
                yield session.validation_loss(batches.clone(batch))


def _endless(course: list[float]) -> bool:
    """Whether each tenfold lets the loss fall at least about tenfold, from below zero, as far as numbers reach."""
    there = list(itertools.takewhile(math.isfinite, course))
    return len(there) >= FEWEST and all(a < 0 and b <= a * 10**LINEAR for a, b in itertools.pairwise(there[1:]))


def _stays(session: Session, parameter: torch.Tensor, batch: Any) -> bool:
    """Whether a step leaves the weight as large as it is found: clipped or normalised weights are kept from running away."""
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.mul_(TIMES[1])
    try:
        session.step(batches.clone(batch))
        return bool(parameter.detach().norm() > TIMES[1] / 2 * before.norm())
    finally:
        with torch.no_grad():
            parameter.copy_(before)
