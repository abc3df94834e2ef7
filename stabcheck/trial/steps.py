"""Training steps of a set-up's own, one after the other, for as long as they have something to say."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stabcheck.trial.session import Session


def step_losses(
    session: Session, given: Iterable[Any], *, rates: Sequence[float] = (), deadline: float = math.inf
) -> Iterator[float | None]:
    """Take one step on each batch of `given` and yield its loss, None where the step returns none. Ends with the batches,
    after a loss that is missing or not finite, and once time.monotonic() is past `deadline`.

    `rates`, where given, are the learning rates that the parameter groups of the set-up's optimizer begin each step with: the
    schedule is not what is asked.

    Raises:
        UserCodeError: the loader or the step raised.
        Skip: the set-up does not say how it trains.
    """
    optimizer = session.setup.optimizer
    groups = optimizer.param_groups if optimizer is not None else []
    for batch in given:
        for group, rate in zip(groups, rates, strict=False):
            group["lr"] = rate
        loss = session.step(batch)
        yield loss
        if loss is None or not math.isfinite(loss) or time.monotonic() > deadline:
            return
