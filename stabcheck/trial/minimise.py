"""Finding the lowest value of a loss over tensors that stand in for predictions."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Effort:
    """How long to minimise: LBFGS iterations, Adam steps after them, and seconds of this thread's own time for all: a busy
    machine comes to the same level."""

    iterations: int
    adam_steps: int
    seconds: float


ABSURD = 3.0
"""Times these seconds on the clock, after which the level found so far must do."""
OUTPUT_EFFORT = Effort(60, 150, 5.0)
TENTH = 0.1
"""Of the distance to the optimum, as it is measured at the start of Adam: its first step for each element. Its last is a
tenth of that: near enough for the kink of an absolute value."""
FORWARD_EFFORT = Effort(24, 0, 5.0)
"""Each evaluation is a forward of the whole model; 3-46 evaluations sufficed on 21 set-ups."""


@dataclass(frozen=True)
class Lowest:
    """What a search came to."""

    value: float | None
    """None if no value was finite."""
    point: list[torch.Tensor]
    """Where it was found; empty with it."""


class _GoodEnough(Exception):  # noqa: N818 - it is no error
    """Time is up, or the level is low enough."""


def minimise(
    evaluate: Callable[[list[torch.Tensor]], torch.Tensor],
    start: list[torch.Tensor],
    effort: Effort = OUTPUT_EFFORT,
    *,
    enough: float = -math.inf,
) -> Lowest:
    """The lowest finite value of `evaluate` found by LBFGS, then Adam for losses that are not smooth.

    Stops early at a value between 0 and `enough`. Neither the scale of the values nor that of the tensors matters: both are
    measured in units of the start (see `_Units`), and anew before Adam takes over.
    """
    search = _Search(evaluate, effort.seconds, enough)
    with contextlib.suppress(_GoodEnough):
        search.descend(start, effort.iterations)
        if effort.adam_steps:
            search.creep(search.best_at or start, effort.adam_steps)
    return Lowest(search.best if math.isfinite(search.best) else None, search.best_at)


@dataclass(frozen=True)
class _Units:
    """A length and a height by which the way down from a point is measured: the value there, and the distance at which a
    straight descent would bring it to zero. It is half the distance to the optimum for a square, all of it for an absolute
    value, whatever factor either is multiplied with."""

    length: float
    height: float

    @classmethod
    def at(cls, value: float, gradients: list[torch.Tensor]) -> _Units:
        steepness = math.hypot(*(float(torch.linalg.vector_norm(g.double())) for g in gradients))
        length = abs(value) / steepness if steepness else 1.0
        usable = 0 < length < math.inf and 0 < abs(value) < math.inf
        return cls(length, abs(value)) if usable else cls(1.0, 1.0)


class _Search:
    """The lowest value so far, and where it was found."""

    def __init__(self, evaluate: Callable[[list[torch.Tensor]], torch.Tensor], seconds: float, enough: float) -> None:
        self._evaluate, self._seconds, self._enough = evaluate, seconds, enough
        self._worked, self._began = time.thread_time(), time.monotonic()
        self.best, self.best_at = math.inf, list[torch.Tensor]()

    def look(self, free: list[torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
        """Value and gradients at `free`."""
        is_over = (
            time.thread_time() - self._worked > self._seconds or time.monotonic() - self._began > ABSURD * self._seconds
        )
        if is_over or 0 <= self.best <= self._enough:
            raise _GoodEnough
        given = [t.detach().requires_grad_() for t in free]
        with torch.enable_grad():
            value = self._evaluate(given)
            found = torch.autograd.grad(value, given, allow_unused=True) if value.requires_grad else [None] * len(given)
        gradients = [
            torch.zeros_like(t) if g is None else torch.nan_to_num(g) for t, g in zip(given, found, strict=True)
        ]
        number = float(value.detach())
        if math.isfinite(number) and number < self.best:
            self.best, self.best_at = number, [t.detach().clone() for t in given]
        return number, gradients

    def descend(self, start: list[torch.Tensor], iterations: int) -> None:
        """LBFGS; ends where it leaves the loss's domain."""
        units = _Units.at(*self.look(start))
        moves = _moves(start)
        # The line search may leave the domain of the loss, which ends it.
        with torch.enable_grad(), contextlib.suppress(RuntimeError, IndexError):
            lbfgs = torch.optim.LBFGS(
                moves, max_iter=iterations, max_eval=2 * iterations, history_size=20, line_search_fn="strong_wolfe"
            )
            lbfgs.step(lambda: self._move(start, moves, units))

    def creep(self, start: list[torch.Tensor], steps: int) -> None:
        """Adam from `start`, at a rate that falls."""
        units = _Units.at(*self.look(start))
        moves, before = _moves(start), self.best
        rate = 2 * TENTH / math.sqrt(max(sum(t.numel() for t in moves), 1))
        adam = torch.optim.Adam(moves, lr=rate, eps=1e-30)
        for step in range(steps):
            self._move(start, moves, units)
            adam.param_groups[0]["lr"] = rate * TENTH ** (step / steps)
            adam.step()
            if step == steps // 3 and self.best >= before - 1e-4 * abs(before):
                break

    def _move(self, start: list[torch.Tensor], moves: list[torch.Tensor], units: _Units) -> float:
        value, gradients = self.look([s + units.length * m.detach() for s, m in zip(start, moves, strict=True)])
        for move, gradient in zip(moves, gradients, strict=True):
            move.grad = (gradient * (units.length / units.height)).contiguous()
        return value / units.height


def _moves(start: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.zeros_like(t, memory_format=torch.contiguous_format).requires_grad_() for t in start]
