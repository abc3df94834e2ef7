"""The planned learning-rate schedule, stepped call by call without training.

The scheduler of a fresh set-up is really called, as often as the planned run would call it, while the
optimizer's own step does nothing. So a chained, sequential, user-written or timm-like scheduler needs no
formula here, and what the run would meet (an exhausted schedule that raises, a negative rate) is met.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.optim import lr_scheduler as torch_schedulers

from stabcheck.trial.cadence import CallForm, call_form
from stabcheck.trial.session import Session
from stabcheck.userland import blamed

Rates = npt.NDArray[np.float64]

CHUNK = 1024
"""Calls between two looks at the clock: about 2 ms for one parameter group."""
SAMPLES = 20_000
"""Points of a curve that is too long to be stepped through."""
MAX_VALUES = 20_000_000
"""Rates kept in memory at most (160 MB), over all groups."""
PLATEAU_CALLS = 64
"""Calls of a scheduler that waits for a metric: with one that always improves, nothing new comes later."""

# For these, and only for the classes themselves, torch knows the rate after any number of calls.
_RANDOM_ACCESS = frozenset(
    {
        torch_schedulers.LambdaLR,
        torch_schedulers.StepLR,
        torch_schedulers.MultiStepLR,
        torch_schedulers.ConstantLR,
        torch_schedulers.LinearLR,
        torch_schedulers.ExponentialLR,
        torch_schedulers.CosineAnnealingLR,
        torch_schedulers.PolynomialLR,
        torch_schedulers.CyclicLR,
        torch_schedulers.OneCycleLR,
        torch_schedulers.CosineAnnealingWarmRestarts,
    }
)
_STEPS_ALIKE = _RANDOM_ACCESS | {torch_schedulers.MultiplicativeLR}


@dataclass(frozen=True)
class Curve:
    """Rates by number of scheduler calls: row i of `rates` (points x groups) is the rate after `i * stride` calls."""

    rates: Rates
    stride: int
    asked: int
    """Number of calls that were asked for; the curve is shorter if a call raised or the time was up."""
    raised_at: int | None
    """The call (from 1) that raised."""
    error: str

    @property
    def calls(self) -> int:
        """Calls that the curve covers."""
        return (len(self.rates) - 1) * self.stride

    @property
    def complete(self) -> bool:
        """Whether it reaches as far as asked for, or to where the scheduler raises."""
        return self.raised_at is not None or self.calls + self.stride > self.asked


class Schedule:
    """A scheduler that is stepped as far as somebody asks, once, and remembers every rate.

    Uses up the scheduler: give it that of a fresh Session.
    """

    def __init__(self, scheduler: Any, optimizer: Any, form: CallForm, seconds: float = 8.0) -> None:
        self.scheduler, self.optimizer, self.form = scheduler, optimizer, form
        self.raised_at: int | None = None
        self.error = ""
        self._groups: list[dict[str, Any]] = list(optimizer.param_groups)
        self._values = array("d", self._now())
        self._left = seconds
        self._jumped = False
        built_with = getattr(scheduler, "_last_lr", None)
        self.built_with = [float(rate) for rate in built_with] if built_with else None
        """The rates that the scheduler left behind when it was built."""
        self._offset: int = getattr(scheduler, "last_epoch", 0)

    def curve(self, calls: int) -> Curve:
        """The rates after 0 .. `calls` calls, every one of them where time allows.

        Beyond that: a sample of them where torch can tell the rate after any number of calls, else the first part.
        """
        with _without_training(self.optimizer):
            if self.form.metric:
                self._advance(min(calls, PLATEAU_CALLS))
            elif not self._step_through(calls):
                sampled = self._sampled(calls)
                if sampled is not None:
                    return sampled
        rates = self._rates()[: calls + 1]
        if self.form.metric and self.raised_at is None and len(rates) <= calls:
            rates = np.concatenate([rates, np.repeat(rates[-1:], calls + 1 - len(rates), axis=0)])
        in_reach = self.raised_at is not None and self.raised_at <= calls
        return Curve(rates, 1, calls, self.raised_at if in_reach else None, self.error if in_reach else "")

    @property
    def _calls(self) -> int:
        return len(self._values) // max(1, len(self._groups)) - 1

    def _now(self) -> list[float]:
        return [float(group["lr"]) for group in self._groups]

    def _rates(self) -> Rates:
        return np.array(self._values, dtype=np.float64).reshape(-1, max(1, len(self._groups)))

    def _step_through(self, calls: int) -> bool:
        """Call on to `calls`; False if that would take more time or memory than there is."""
        if calls * len(self._groups) > MAX_VALUES:
            calls_here, fits = min(calls, CHUNK), False
        else:
            calls_here, fits = calls, True
        spent, done = 0.0, 0
        while self._calls < calls_here and self.raised_at is None:
            if self._jumped or self._left <= 0:
                return False
            if done and spent / done * (calls_here - self._calls) > self._left and self._can_jump():
                return False
            count = min(CHUNK, calls_here - self._calls)
            started = time.monotonic()
            self._advance(count)
            taken = time.monotonic() - started
            spent, done, self._left = spent + taken, done + count, self._left - taken
        return fits or self.raised_at is not None

    def _advance(self, count: int) -> None:
        """`count` more calls; what the scheduler raises is kept."""
        try:
            if self._is_plain():
                self._get_rates(count)
            else:
                self._call(count)
        except (Exception, SystemExit) as error:
            self.raised_at, self.error = self._calls + 1, blamed("scheduler.step", error).message

    def _call(self, count: int) -> None:
        call, groups, keep = getattr(self.scheduler, self.form.method), self._groups, self._values.extend
        first = self._calls + 1
        if self.form.metric:
            better = -1.0 if getattr(self.scheduler, "mode", "min") == "min" else 1.0
            for index in range(first, first + count):
                call(better * 2.0**index)
                keep([float(group["lr"]) for group in groups])
        elif self.form.start is None:
            for _ in range(count):
                call()
                keep([group["lr"] for group in groups])
        else:
            for index in range(first, first + count):
                call(*self.form.arguments(index))
                keep([group["lr"] for group in groups])

    def _is_plain(self) -> bool:
        """Whether `step` is torch's own, on plain numbers: what it does around `get_lr` can then be left out."""
        scheduler = self.scheduler
        return (
            type(scheduler) in _STEPS_ALIKE
            and type(scheduler).step is torch_schedulers.LRScheduler.step
            and "step" not in vars(scheduler)
            and self.form == CallForm()
            and len(scheduler.base_lrs) == len(self._groups)
            and all(type(group["lr"]) is float for group in self._groups)
        )

    def _get_rates(self, count: int) -> None:
        """`count` calls of torch's own `LRScheduler.step`, in half the time."""
        scheduler, groups, keep = self.scheduler, self._groups, self._values.extend
        scheduler._get_lr_called_within_step = True
        get = scheduler.get_lr
        for index in range(scheduler.last_epoch + 1, scheduler.last_epoch + 1 + count):
            scheduler.last_epoch = index
            rates = get()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            keep(rates)

    def _can_jump(self) -> bool:
        return self.form == CallForm() and _tells_any(self.scheduler)

    def _sampled(self, calls: int) -> Curve | None:
        """A curve with a stride; None if torch cannot tell the rate after any number of calls, or tells another one."""
        if not self._can_jump() or self.raised_at is not None or not self._calls:
            return None
        self._jumped = True
        known = self._rates()[-1]
        if not np.allclose(self._rates_at(self._calls), known, rtol=1e-6, atol=0):
            return None
        stride = math.ceil(calls / SAMPLES)
        rows = [list(self._values[: len(self._groups)])]
        raised_at, error = None, ""
        for call in range(stride, calls + 1, stride):
            try:
                rows.append(self._rates_at(call))
            except (Exception, SystemExit) as problem:
                raised_at, error = self._first_raise(call - stride, call), blamed("scheduler.step", problem).message
                break
        return Curve(np.array(rows), stride, calls, raised_at, error)

    def _rates_at(self, call: int) -> list[float]:
        return [float(rate) for rate in _rates_at(self.scheduler, call + self._offset, self._groups)]

    def _first_raise(self, good: int, bad: int) -> int:
        """The first call that raises, between one that does not and one that does."""
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self._rates_at(middle)
                good = middle
            except (Exception, SystemExit):
                bad = middle
        return bad


def _tells_any(scheduler: Any) -> bool:
    if type(scheduler) is torch_schedulers.SequentialLR:
        return all(_tells_any(part) for part in scheduler._schedulers)
    return type(scheduler) in _RANDOM_ACCESS


def _rates_at(scheduler: Any, call: int, groups: list[dict[str, Any]]) -> list[float]:
    """The rates after `call` calls, by torch's own formulas."""
    if type(scheduler) is torch_schedulers.SequentialLR:
        index = bisect_right(scheduler._milestones, call)
        before = scheduler._milestones[index - 1] if index else 0
        return _rates_at(scheduler._schedulers[index], call - before, groups)
    if type(scheduler) is torch_schedulers.CosineAnnealingWarmRestarts:
        scheduler.step(call)
        return [group["lr"] for group in groups]
    scheduler._get_lr_called_within_step = True
    scheduler.last_epoch = call
    formula = getattr(scheduler, "_get_closed_form_lr", None) or scheduler.get_lr
    rates: list[float] = formula()
    return rates


@contextlib.contextmanager
def _without_training(optimizer: Any) -> Iterator[None]:
    """Inside, `optimizer.step` does nothing, torch does not warn about that, and a chatty scheduler is not heard."""

    def step(*_: Any, **__: Any) -> None:
        return None

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    own = vars(optimizer).get("step") if hasattr(optimizer, "__dict__") else None
    replaced = hasattr(optimizer, "__dict__")
    if replaced:
        optimizer.step = step
        optimizer._opt_called = True  # the flag that torch's warning looks at
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if replaced and own is not None:
            optimizer.step = own
        elif replaced:
            del optimizer.step


@dataclass(frozen=True)
class PlannedPeak:
    """The highest rate that one parameter group trains with, and the optimizer step (from 0) at which it first does."""

    rate: float
    step: int


def planned_rates(session: Session, seconds: float = 3.0, unknown_length: int = 10_000) -> tuple[PlannedPeak, ...]:
    """The planned peak of each parameter group, with the scheduler stepped as the set-up says.

    Uses up the session's scheduler: give it a fresh session. A run of unknown length is taken to have
    `unknown_length` steps. Without a scheduler the present rate is the peak, at step 0.
    """
    setup = session.setup
    if setup.optimizer is None:
        return ()
    steps = session.planned_steps or unknown_length
    stretch = 1.0
    if setup.scheduler is None:
        return tuple(PlannedPeak(rate, 0) for rate in session.learning_rates())
    if session.interval == "epoch":
        stretch = max(1.0, (session.steps_per_epoch or steps) / setup.accumulate_steps)
    form = call_form(setup.scheduler, session.interval)
    calls = max(0, math.ceil(steps / stretch) - 1)
    curve = Schedule(setup.scheduler, setup.optimizer, form, seconds).curve(calls)
    peaks = []
    for rates in curve.rates.T:
        finite = np.where(np.isfinite(rates), rates, -np.inf)
        index = int(np.argmax(finite))
        peaks.append(PlannedPeak(float(finite[index]), round(index * curve.stride * stretch)))
    return tuple(peaks)
