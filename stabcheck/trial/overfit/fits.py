"""Training on one batch again and again, with an optimizer of ours or with the user's own step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stabcheck.check import Skip
from stabcheck.trial.rng import kept_rng, seed_all
from stabcheck.trial.session import Session
from stabcheck.trial.steps import step_losses

MOVING_WINDOW = 25
"""Steps over which a loss with moving randomness is averaged before it is believed."""
ORDINARY = (1e-3, 1e3)
"""Losses whose gradients are clipped and squared as they are; others are first brought to 1, or Adam's epsilon and the
clipping would see nothing else."""
CLIP = 1.0
"""Gradient norm of our own optimizer: with it 99 % of 70 healthy set-ups fit within 200 steps, without 96 %."""


@dataclass(frozen=True)
class Fit:
    """The course of one attempt."""

    rate: float
    losses: tuple[float, ...]

    @property
    def final(self) -> float:
        """Mean of the last three losses, infinite if one of them is not finite."""
        return settled(self.losses)

    @property
    def lowest(self) -> float:
        """The lowest finite loss; infinite if there is none."""
        return min((loss for loss in self.losses if math.isfinite(loss)), default=math.inf)


def settled(losses: Sequence[float], count: int = 3) -> float:
    """Mean of the last `count` losses, infinite if one of them is not finite."""
    last = losses[-count:]
    return math.fsum(last) / len(last) if last and all(map(math.isfinite, last)) else math.inf


def in_time(deadline: float) -> None:
    """Raises Skip once time.monotonic() is past `deadline`."""
    if time.monotonic() > deadline:
        raise Skip("fitting one batch did not end in its time: raise --check-timeout or --budget")


def fit_with_adam(
    session: Session,
    batch: Any,
    *,
    rate: float,
    steps: int,
    seed: int,
    until: float,
    moving: bool = False,
    deadline: float = math.inf,
) -> Fit:
    """Train on `batch` until the loss is at most `until` (a mean of MOVING_WINDOW if `moving`), or for `steps`.

    `moving` draws new randomness at every step; otherwise each step sees the same.
    """
    parameters = [p for p in session.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    losses: list[float] = []
    factor = 1.0
    with kept_rng():
        for step in range(steps):
            seed_all(seed + step if moving else seed)
            optimizer.zero_grad(set_to_none=True)
            loss = session.loss(batch)
            losses.append(float(loss.detach()))
            in_time(deadline)
            if not math.isfinite(losses[-1]):
                break
            count = MOVING_WINDOW if moving else 1
            if len(losses) >= count and settled(losses, count) <= until:
                break
            if not step and math.isfinite(size := abs(losses[0])) and size and not ORDINARY[0] <= size <= ORDINARY[1]:
                factor = 1 / size
            torch.autograd.backward(loss * factor)
            for parameter in parameters:  # of a sparse embedding; neither clipping nor Adam knows them
                if parameter.grad is not None and parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.to_dense()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Fit(rate, tuple(losses))


def fit_with_own_step(
    session: Session,
    batch: Any,
    *,
    rates: Sequence[float],
    steps: int,
    seed: int,
    stop: Callable[[list[float]], bool],
    deadline: float = math.inf,
) -> Fit:
    """Call the user's own step on `batch` again and again, its randomness held, the learning rate of each parameter
    group put back to `rates` before each call (the schedule is not what is asked)."""
    losses: list[float] = []
    with kept_rng():
        for loss in step_losses(session, _held(batch, steps, seed), rates=rates):
            losses.append(math.nan if loss is None else loss)
            in_time(deadline)
            if stop(losses):
                break
    return Fit(max(rates, default=math.nan), tuple(losses))


def _held(batch: Any, steps: int, seed: int) -> Iterator[Any]:
    for _ in range(steps):
        seed_all(seed)
        yield batch


def is_stochastic(session: Session, batch: Any, seed: int) -> bool:
    """Whether the loss at the present weights changes with the random seed alone."""
    values = set()
    with kept_rng():  # with gradients on: a loss may differentiate inside
        for offset in range(3):
            seed_all(seed + offset)
            values.add(float(session.loss(batch).detach()))
    return len(values) > 1


def weights(model: nn.Module) -> list[torch.Tensor]:
    """Copies of the parameters that can be trained."""
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def moved(before: list[torch.Tensor], model: nn.Module) -> bool:
    """Whether any of them is different now."""
    now = [p for p in model.parameters() if p.requires_grad]
    return any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))
