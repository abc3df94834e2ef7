"""torch's own schedulers, stepped without what surrounds their formula, or asked for the rate after any number of calls.

Only for the classes themselves: a subclass may override anything, and is stepped through its own `step`.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

_BY_NUMBER = frozenset(
    {
        LambdaLR,
        StepLR,
        MultiStepLR,
        ConstantLR,
        LinearLR,
        ExponentialLR,
        CosineAnnealingLR,
        PolynomialLR,
        CyclicLR,
        OneCycleLR,
        CosineAnnealingWarmRestarts,
    }
)
_BY_FORMULA = (_BY_NUMBER - {CosineAnnealingWarmRestarts}) | {MultiplicativeLR}

Groups = list[dict[str, Any]]
Step = Callable[[], list[float]]


def plain_step(scheduler: Any, groups: Groups) -> Step | None:
    """A function that does what `scheduler.step()` does to the rates and returns them; None if there is none.

    Takes about half the time. Left out are the bookkeeping of warnings, two context managers and the copy for `get_last_lr`.
    """
    if "step" in vars(scheduler) or any(type(group["lr"]) is not float for group in groups):
        return None
    if type(scheduler) is ChainedScheduler:
        steps = [plain_step(part, groups) for part in scheduler._schedulers]
        return None if None in steps else _all_of([step for step in steps if step is not None])
    if type(scheduler) is SequentialLR:
        return _one_of(scheduler, groups)
    own = type(scheduler) in _BY_FORMULA and type(scheduler).step is torch_schedulers.LRScheduler.step
    if not own or len(scheduler.base_lrs) != len(groups):
        return None
    scheduler._get_lr_called_within_step = True
    formula, group = scheduler.get_lr, groups[0]

    def step() -> list[float]:
        scheduler._step_count += 1
        scheduler.last_epoch += 1
        rates: list[float] = formula()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return rates

    def step_of_one_group() -> list[float]:
        scheduler._step_count += 1
        scheduler.last_epoch += 1
        rates: list[float] = formula()
        (group["lr"],) = rates
        return rates

    return step_of_one_group if len(groups) == 1 else step


def _all_of(steps: list[Step]) -> Step:
    *others, last = steps

    def step() -> list[float]:
        for one in others:
            one()
        return last()

    return step


def _one_of(scheduler: Any, groups: Groups) -> Step | None:
    """SequentialLR: the part whose turn it is, started afresh at its milestone."""
    parts, milestones = scheduler._schedulers, scheduler._milestones
    steps = [plain_step(part, groups) for part in parts]
    if None in steps or any(not hasattr(part, "base_lrs") for part in parts):
        return None  # torch itself cannot restart a chained or sequential part at its milestone

    def step() -> list[float]:
        scheduler.last_epoch += 1
        index = bisect_right(milestones, scheduler.last_epoch)
        if index and milestones[index - 1] == scheduler.last_epoch:
            parts[index].step(0)
            parts[index]._get_lr_called_within_step = True
            return [group["lr"] for group in groups]
        return steps[index]()  # type: ignore[misc]

    return step


def knows_any(scheduler: Any) -> bool:
    """Whether torch can tell the rates after any number of calls."""
    if type(scheduler) is SequentialLR:
        return all(knows_any(part) for part in scheduler._schedulers)
    return type(scheduler) in _BY_NUMBER


def rates_after(scheduler: Any, calls: int, groups: Groups) -> list[float]:
    """The rates after `calls` calls, by torch's closed forms. Leaves the scheduler somewhere else.

    Raises:
        Exception: whatever the scheduler raises at that call.
    """
    if type(scheduler) is SequentialLR:
        index = bisect_right(scheduler._milestones, calls)
        before = scheduler._milestones[index - 1] if index else 0
        return rates_after(scheduler._schedulers[index], calls - before, groups)
    if type(scheduler) is CosineAnnealingWarmRestarts:
        scheduler.step(calls)
        return [float(group["lr"]) for group in groups]
    scheduler._get_lr_called_within_step = True
    scheduler.last_epoch = calls
    formula = getattr(scheduler, "_get_closed_form_lr", None) or scheduler.get_lr
    return [float(rate) for rate in formula()]


@contextlib.contextmanager
def without_training(optimizer: Any) -> Iterator[None]:
    """Inside, `optimizer.step` does nothing, torch does not warn about that, and a chatty scheduler is not heard."""

    def step(*_: Any, **__: Any) -> None:
        return None

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    own = vars(optimizer).get("step")
    optimizer.step = step
    optimizer._opt_called = True  # the flag that torch's warning looks at
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if own is not None:
            optimizer.step = own
        else:
            del optimizer.step
