"""The same training steps again, with other options of the optimizer."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

from stabcheck.trial.bench import Bench
from stabcheck.trial.modes import held_by

Change = Callable[[Any], None]
"""Changes the options of one optimizer, in place."""


def rerun(bench: Bench, change: Change | None, *, steps: int, seed: int, deadline: float) -> tuple[float, ...]:
    """Losses of a fresh set-up's own training steps, every optimizer of its model changed by `change` before each
    step: the batches are those of the trial if `seed` is the bench's. Ends early at a loss that is not finite, and at
    `deadline` (time.monotonic()).

    Raises:
        UserCodeError: the set-up, the loader or the step raised.
        Skip: the set-up does not say how it trains.
    """
    session = bench.session(seed)
    ours = {id(p) for p in session.model.parameters()}

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        if change is not None and held_by(optimizer) & ours:
            change(optimizer)

    losses: list[float] = []
    with contextlib.ExitStack() as stack:
        stack.callback(register_optimizer_step_pre_hook(before_step).remove)
        batches = session.train_batches()
        for _ in range(steps):
            loss = session.step(next(batches)[1])
            losses.append(math.nan if loss is None else loss)
            if not math.isfinite(losses[-1]) or time.monotonic() > deadline:
                break
    return tuple(losses)
