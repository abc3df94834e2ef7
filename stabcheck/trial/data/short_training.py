"""The same training twice, with one thing changed: what it is worth, by the set-up's own optimizer and loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stabcheck import stats
from stabcheck.reading import Scale
from stabcheck.trial import batches
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import kept_modes
from stabcheck.trial.pace import Pace
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.steps import step_losses
from stabcheck.trial.yardsticks import measure

Change = Callable[[Any], Any]

FLAT = 1e-3
"""Share of the level of a constant prediction below which a way to the floor is none."""

TAIL = 5
"""Steps at the end over which the loss is averaged."""


def course(
    session: Session,
    given: Iterable[Any],
    *,
    steps: int,
    seed: int,
    rates: Sequence[float] = (),
    pace: Pace | None = None,
) -> list[float]:
    """Losses of up to `steps` training steps of the set-up's own on these batches, from the first again at their end;
    shorter if a loss is not finite or `pace` allows fewer. `rates`, where given, are the learning rates of the parameter
    groups throughout: a warm-up is not what is asked.

    Raises:
        UserCodeError: the step raised.
        Skip: it takes too long, or the set-up does not say how it trains.
    """
    pace = pace or Pace(math.inf)
    wanted = itertools.islice((batches.clone(batch) for batch in itertools.cycle(given)), steps)
    with kept_rng(seed):
        losses = [
            math.nan if loss is None else loss for loss in step_losses(session, pace.through(wanted), rates=rates)
        ]
    pace.require_in_time()
    return losses


def tail(losses: Sequence[float]) -> float:
    """Mean of the last losses; infinite if one is not finite or there is none."""
    last = losses[-TAIL:]
    return stats.mean(last) if last and all(map(math.isfinite, last)) else math.inf


def scale_of(session: Session, given: list[Any], seed: int) -> Scale | None:
    """Losses of these batches as progress; None without a constant guess to begin at, or a way down from it. Targets of a huge
    scale hide the floor: the search for it does not get away from the start."""
    levels = measure(session, given, seed)
    if levels.constant is None or not math.isfinite(levels.constant):
        return None
    scale = Scale(levels.constant, levels.oracle if levels.oracle is not None else 0.0)
    if 0 <= scale.gap <= FLAT * levels.constant:
        scale = Scale(levels.constant, 0.0)
    return scale if scale.gap > 0 else None


def level(session: Session, given: Iterable[Any], seed: int) -> float:
    """Mean loss of these batches in eval mode.

    Raises:
        UserCodeError: the model or the loss raised.
    """
    with kept_modes(session.model), kept_rng(seed):
        session.model.eval()
        losses = [session.validation_loss(batches.clone(batch)) for batch in given]
    return stats.mean(losses) if losses and all(map(math.isfinite, losses)) else math.inf


@contextmanager
def changed_arguments(session: Session, change: Callable[[str, Any], Any]) -> Iterator[None]:
    """Inside, every tensor that the model is called with is what `change(path, tensor)` makes of it, so that targets and
    whatever else the set-up does with its batches stay as they are."""

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        return (
            tuple(_mapped(value, str(i), change) for i, value in enumerate(args)),
            {name: _mapped(value, name, change) for name, value in kwargs.items()},
        )

    with attached(session.model.register_forward_pre_hook(hook, with_kwargs=True)):
        yield


def _mapped(value: Any, path: str, change: Callable[[str, Any], Any]) -> Any:
    count = itertools.count()
    return batches.map_tensors(value, lambda tensor: change(f"{path}.{next(count)}", tensor))
