"""The trial once more from another start: what a set-up would have done if one thing about it were different."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from stabcheck.reading import Progress, progress
from stabcheck.recording import Recording
from stabcheck.trial.bench import Bench
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError


def trained(
    bench: Bench, change: Callable[[Session], contextlib.AbstractContextManager[object] | None]
) -> Progress | None:
    """How far as many steps as the trial's come, on the same batches, after `change` was made to a fresh session (what it
    returns is entered around the steps); None if the steps cannot be taken.

    Raises:
        Skip: building the set-up again does not fit the budget.
    """
    recording = bench.recording
    assert recording is not None
    session = bench.session()
    losses: list[float] = []
    try:
        with change(session) or contextlib.nullcontext():
            batches = session.train_batches()
            for _ in range(recording.planned):
                loss = session.step(next(batches)[1])
                if loss is None or not math.isfinite(loss) or bench.remaining() < 0:
                    break
                losses.append(loss)
    except UserCodeError:
        return None
    return progress(with_losses(recording, losses)) if len(losses) == recording.planned else None


def with_losses(recording: Recording, losses: Sequence[float]) -> Recording:
    """The Recording as if its steps had had these losses."""
    template = recording.steps[0]
    steps = tuple(replace(template, index=index, loss=loss) for index, loss in enumerate(losses))
    return replace(recording, steps=steps)
