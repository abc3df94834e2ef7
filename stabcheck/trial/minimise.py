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
FORWARD_EFFORT = Effort(24, 0, 5.0)
"""Each evaluation is a forward of the whole model; 3-46 evaluations sufficed on 21 set-ups."""


class _GoodEnough(Exception):  # noqa: N818 - it is no error
    """Time is up, or the level is low enough."""


def minimise(
    evaluate: Callable[[list[torch.Tensor]], torch.Tensor],
    start: list[torch.Tensor],
    spread: float,
    effort: Effort = OUTPUT_EFFORT,
    *,
    enough: float = -math.inf,
) -> float | None:
    """The lowest finite value of `evaluate` found by LBFGS, then Adam for losses that are not smooth; None if none.

    Stops early at a value between 0 and `enough`.
    """
    best, started, began = math.inf, time.thread_time(), time.monotonic()

    def closure_on(free: list[torch.Tensor]) -> float:
        nonlocal best
        is_over = time.thread_time() - started > effort.seconds or time.monotonic() - began > ABSURD * effort.seconds
        if is_over or 0 <= best <= enough:
            raise _GoodEnough
        with torch.enable_grad():
            value = evaluate(free)
            gradients = (
                torch.autograd.grad(value, free, allow_unused=True) if value.requires_grad else [None] * len(free)
            )
        for tensor, gradient in zip(free, gradients, strict=True):
            tensor.grad = torch.nan_to_num(gradient).contiguous() if gradient is not None else torch.zeros_like(tensor)
        number = float(value.detach())
        if math.isfinite(number):
            best = min(best, number)
        return number

    free = [t.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for t in start]
    # The line search may leave the loss's domain, which ends it.
    with torch.enable_grad(), contextlib.suppress(RuntimeError, IndexError, _GoodEnough):
        lbfgs = torch.optim.LBFGS(
            free,
            max_iter=effort.iterations,
            max_eval=2 * effort.iterations,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        lbfgs.step(lambda: closure_on(free))
    if not all(torch.isfinite(t).all() for t in free):
        free = [t.detach().clone().requires_grad_() for t in start]
    before = best
    with contextlib.suppress(_GoodEnough):
        adam = torch.optim.Adam(free, lr=0.1 * max(1.0, spread))
        for step in range(effort.adam_steps):
            closure_on(free)
            adam.step()
            if step == effort.adam_steps // 3 and best >= before - 1e-4 * abs(before):
                break
    return best if math.isfinite(best) else None
