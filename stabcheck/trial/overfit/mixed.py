"""Whether the user's own step pairs inputs with the targets of other samples in the batch.

Two samples, two arms. In one arm each batch holds one of them, repeated: no order within a batch can then be wrong. In
the other every batch holds both. A step that learns to tell them apart in the first arm only has mixed up its pairs; one
whose augmentation is too strong, whose inputs are scaled elsewhere or whose loss is another fails, or succeeds, in both.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stabcheck.trial import batches
from stabcheck.trial.overfit.dropout import dropout_off
from stabcheck.trial.overfit.fits import in_time
from stabcheck.trial.overfit.own import OwnStep
from stabcheck.trial.rng import kept_rng, seed_all
from stabcheck.trial.yardsticks import measure
from stabcheck.userland import UserCodeError

SUSPICIOUS = 0.7
"""Share of the way that is left on the set-up's own loss when the step's has come half of it or more: worth a look. Of pairs
in a fixed wrong order some are right by chance, so the two losses fall together for a while."""
UNTOUCHED, APART = 0.7, 0.25
"""Share of the way that is left at the lowest, above which two samples were never told apart, and below which they were.
Seven mixed-up steps over three seeds leave 0.8 or more where both are in one batch, and 0.0 after 40 calls where they are
not; shuffled features, whose sum still tells them apart, come to 0.4 to 0.55 in both."""
CALLS, EVERY = 200, 5
"""Calls of the step in each arm, and calls from one look to the next."""
LOOKS = 4
"""Looks that are averaged: pairs drawn at random are right half the time."""
PARTNERS = 5
"""Samples that are tried as the other one of the two."""


@dataclass(frozen=True)
class Mixed:
    """What shows that the step mixes its pairs."""

    loss: float
    """The set-up's loss on the batch that the step has fitted."""
    apart: float
    """Share of the way covered when each batch holds one sample."""
    together: float
    """The same when it holds both; below zero if the loss went up."""
    calls: int


def mixed(own: OwnStep) -> Mixed | None:
    """The proof, right after the step has fitted its batch; None if there is none.

    Raises:
        Skip: it did not end in its time.
    """
    session, chosen = own.session, own.chosen
    if chosen is None or session.setup.train_step is None:
        return None
    try:
        loss = _loss(own, [chosen.batch])
        if not chosen.left(loss) > SUSPICIOUS:
            return None
        arms = _Arms(own)
        together = arms.lowest(UNTOUCHED, mixing=True)
        if not together > UNTOUCHED:
            return None
        apart = arms.lowest(APART, mixing=False)
    except (UserCodeError, RuntimeError, IndexError):  # a step may refuse such batches
        return None
    return Mixed(loss, 1 - apart, 1 - together, arms.calls) if apart <= APART else None


def _loss(own: OwnStep, given: Sequence[Any]) -> float:
    """The set-up's loss over `given`, dropout off, everything else random as at the start."""
    losses = []
    with dropout_off(own.session.model), torch.enable_grad():
        for batch in given:
            with kept_rng(own.bench.seed):
                losses.append(float(own.session.loss(batches.clone(batch)).detach()))
    return math.fsum(losses) / len(losses)


class _Arms:
    """Training on two samples, told apart by the set-up's loss."""

    def __init__(self, own: OwnStep) -> None:
        self.own = own
        self.calls = 0
        count = batches.size(own.batch)
        self._generator = torch.Generator().manual_seed(own.bench.seed)
        best: tuple[float, Any, int, list[Any]] = (0.0, None, 0, [])
        own.restart()
        for partner in range(1, min(count, PARTNERS + 1)):
            single = [rows(own.batch, [index] * count) for index in (0, partner)]
            with _frozen_norms(own.session.model):
                levels = measure(own.session, [self._both(partner)], own.bench.seed)
            if levels.constant is not None and levels.oracle is not None:
                best = max(best, (levels.constant - levels.oracle, levels, partner, single), key=lambda one: one[0])
        self.gap, self.levels, self.partner, self.single = best

    def lowest(self, enough: float, *, mixing: bool) -> float:
        """The least share of the way that was left over LOOKS looks in one arm, which ends below `enough`: 1 is the best
        constant guess. NaN if two samples cannot be told apart by this loss."""
        if not self.gap:
            return math.nan
        own, session = self.own, self.own.session
        own.restart()
        groups = session.setup.optimizer.param_groups if session.setup.optimizer is not None else []
        given = (self._both(self.partner) for _ in itertools.count()) if mixing else itertools.cycle(self.single)
        looks: list[float] = []
        lowest = math.inf
        with kept_rng(), _frozen_norms(session.model):
            for call, batch in enumerate(itertools.islice(given, CALLS * session.setup.accumulate_steps)):
                for group, rate in zip(groups, own.peaks, strict=False):
                    group["lr"] = rate
                seed_all(own.bench.seed + call)
                session.step(batches.clone(batch))
                in_time(own.bench.deadline)
                if call % EVERY == EVERY - 1:
                    looks.append((_loss(own, self.single) - self.levels.oracle) / self.gap)
                    self.calls = call + 1
                    if len(looks) >= LOOKS:
                        lowest = min(lowest, math.fsum(looks[-LOOKS:]) / LOOKS)
                    if lowest <= enough:
                        break
        return lowest

    def _both(self, partner: int) -> Any:
        """A batch of both, half of each, in an order that is another one each time: one that the step turns into itself
        would hide what it does."""
        count = batches.size(self.own.batch)
        order = torch.randperm(count, generator=self._generator).tolist()
        return rows(self.own.batch, [0 if place % 2 else partner for place in order])


@contextlib.contextmanager
def _frozen_norms(model: nn.Module) -> Iterator[None]:
    """BatchNorm uses its running statistics: a batch of equal samples has no deviation of its own."""

    def off(module: nn.Module, args: Any) -> None:
        module.training = False

    handles = [m.register_forward_pre_hook(off) for m in model.modules() if isinstance(m, _BatchNorm)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rows(batch: Any, index: Sequence[int]) -> Any:
    """The batch made of these of its samples, in this order; what has no axis of samples is as it was."""
    whole = batches.size(batch)
    chosen = torch.as_tensor(index)

    def pick(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[chosen.to(value.device)] if value.dim() and value.shape[0] == whole else value
        if isinstance(value, Mapping):
            picked = {key: pick(item) for key, item in value.items()}
            return picked if type(value) is dict else type(value)(picked)  # type: ignore[call-arg]
        if isinstance(value, (list, tuple)):
            parts = any(isinstance(v, (torch.Tensor, Mapping, list, tuple)) for v in value)
            items = [value[i] for i in index] if len(value) == whole and not parts else [pick(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    return pick(batch)
