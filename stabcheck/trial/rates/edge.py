"""The largest rate that one update bears: how far along it the loss stays below where it started.

The loss is read at a few multiples of the real update of the real optimizer, momentum and preconditioning included. Under
a quadratic model the loss is back at its start at twice the best step, which for gradient descent is the rate 2/curvature
above which it diverges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.trial import batches
from stabcheck.trial.rates.scaled import ScaledRates
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import undisturbed
from stabcheck.userland import UserCodeError

STRIDE = 4.0
"""Factor between two multiples of the update that are tried, before the interval is halved."""
FORWARDS = 5
"""Multiples tried: from the update itself by STRIDE up or down to the crossing; the last one halves the interval in ln."""


@dataclass(frozen=True)
class Edge:
    """One line search: at `step`, the loss on two batches stays below its start up to `multiple` times the update."""

    step: int
    share: float
    """Share of the planned peak with which this update was made, the probe's factor included."""
    multiple: float

    @property
    def bears(self) -> float:
        """The largest stable rate, in planned peaks."""
        return self.share * self.multiple


class EdgeSearch:
    """Line searches in the course of one probe."""

    def __init__(self, session: Session, rates: ScaledRates, seed: int) -> None:
        self.session, self.rates, self.seed = session, rates, seed
        self.found: list[Edge] = []
        self._other: Any = None
        self._broken = False

    def keep(self, batch: Any, *, wanted: bool) -> None:
        """Remember the batch before one that is searched on, as the other batch."""
        if wanted:
            self._other = batches.clone(batch)

    def step(self, batch: Any) -> float | None:
        """One step of the set-up with a line search along its update, after which all is as the step left it."""
        model = self.session.model
        before = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
        taken = self.rates.steps
        loss = self.session.step(batch)
        if self._broken or self.rates.steps == taken or loss is None or not math.isfinite(loss):
            return loss
        moves = [(p, start, p.detach() - start) for p, start in before if p.shape == start.shape]
        moves = [(p, start, move) for p, start, move in moves if bool(move.any())]
        both = [batch, *([self._other] if self._other is not None else [])]
        try:
            with kept_rng(), undisturbed(model):
                multiple = self._crossing(moves, both) if moves else None
        except UserCodeError:  # the loss is known only inside the step
            self._broken, multiple = True, None
        if multiple is not None:
            self.found.append(Edge(taken, self.rates.share, multiple))
        return loss

    def _crossing(self, moves: list[Any], both: list[Any]) -> float | None:
        """The multiple of the update at which the loss is back at its start; None if it cannot be told."""
        start = self._loss_at(0.0, moves, both)
        if not math.isfinite(start):
            return None
        lower, upper, multiple = 0.0, math.inf, 1.0
        for _ in range(FORWARDS):
            value = self._loss_at(multiple, moves, both)
            if value < start:
                lower = multiple
            else:
                upper = multiple
            is_between = lower > 0 and upper < math.inf
            outwards = multiple * STRIDE if lower else multiple / STRIDE
            multiple = math.sqrt(lower * upper) if is_between else outwards
        if not lower:  # noise of the batch, or what the momentum carries along: no way down at all
            return None
        return math.sqrt(lower * upper) if upper < math.inf else lower

    def _loss_at(self, multiple: float, moves: list[Any], both: list[Any]) -> float:
        with torch.no_grad():
            for parameter, start, move in moves:
                parameter.copy_(start + multiple * move)
        total = 0.0
        for index, batch in enumerate(both):
            with kept_rng(self.seed + index):
                total += self.session.validation_loss(batch)
        return total / len(both)
