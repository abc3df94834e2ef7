"""The same training steps again, with other options of the optimizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import before_steps
from stabcheck.trial.steps import step_losses

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
    hook = change if change is not None else _nothing
    with before_steps(session.model.parameters(), hook):
        batches = (batch for _, batch in session.train_batches())
        taken = step_losses(session, itertools.islice(batches, steps), deadline=deadline)
        return tuple(math.nan if loss is None else loss for loss in taken)


def _nothing(optimizer: Any) -> None:
    """The options stay as they are."""
