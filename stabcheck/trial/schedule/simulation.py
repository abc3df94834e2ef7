"""The planned learning-rate schedule, stepped call by call without training.

The scheduler of a fresh set-up is really called, as often as the planned run would call it, while the
optimizer's own step does nothing. So a chained, sequential, user-written or timm-like scheduler needs no
formula here, and what the run would meet (an exhausted schedule that raises, a negative rate) is met.
"""

from __future__ import annotations

import math
import time
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.trial.schedule.cadence import CallForm, call_form
from stabcheck.trial.schedule.rate_shape import Rates
from stabcheck.trial.schedule.steps import knows_any, plain_step, rates_after, without_training
from stabcheck.trial.session import Session
from stabcheck.userland import blamed

CHUNK = 1024
"""Calls between two looks at the clock: about 2 ms for one parameter group."""
SAMPLES = 20_000
"""Points of a curve that is too long to be stepped through."""
MOST_VALUES = 20_000_000
"""Rates kept in memory at most (160 MB), over all groups."""
PLATEAU_CALLS = 64
"""Calls of a scheduler that waits for a metric: with one that always improves, nothing new comes later."""


@dataclass(frozen=True)
class Curve:
    """Rates by number of scheduler calls: row i of `rates` (points x groups) is the rate after `i * stride` calls."""

    rates: Rates
    stride: int
    asked: int
    """Number of calls that were asked for; the curve is shorter if a call raised or the time was up."""
    raised_at: int | None = None
    """The call (from 1) that raised."""
    error: str = ""

    @property
    def calls(self) -> int:
        """Calls that the curve covers."""
        return (len(self.rates) - 1) * self.stride

    @property
    def complete(self) -> bool:
        """Whether it reaches as far as asked for, or to where the scheduler raises."""
        return self.raised_at is not None or self.calls + self.stride > self.asked

    def used(self, calls: int) -> Rates:
        """The rates that a run with so many calls trains with: that after the last call comes too late."""
        return self.rates[: max(1, math.ceil(calls / self.stride))]


class Schedule:
    """A scheduler that is stepped as far as somebody asks, once, and remembers every rate.

    Uses up the scheduler: give it that of a fresh Session.
    """

    def __init__(self, scheduler: Any, optimizer: Any, form: CallForm, seconds: float = 8.0) -> None:
        self.scheduler, self.optimizer, self.form = scheduler, optimizer, form
        self.raised_at: int | None = None
        self.error = ""
        built_with = getattr(scheduler, "_last_lr", None)
        self.built_with = [float(rate) for rate in built_with] if built_with else None
        """The rates that the scheduler left behind when it was built."""
        self._groups: list[dict[str, Any]] = list(optimizer.param_groups)
        self._values = array("d", [float(group["lr"]) for group in self._groups])
        self._left = seconds
        self._jumped = False
        self._offset: int = getattr(scheduler, "last_epoch", 0)

    def curve(self, calls: int) -> Curve:
        """The rates after 0 .. `calls` calls, every one of them where time allows.

        Beyond that: a sample of them where torch can tell the rate after any number of calls, else the first part.
        """
        with without_training(self.optimizer):
            if self.form.metric:
                self._advance(min(calls, PLATEAU_CALLS) - self._calls)
            else:
                self._step_through(calls)
            missing = self._calls < calls and self.raised_at is None and not self.form.metric
            sampled = self._sampled(calls) if missing and self._can_jump else None
        if sampled is not None:
            return sampled
        rates = self._rates()[: calls + 1]
        if self.form.metric and self.raised_at is None and len(rates) <= calls:
            rates = np.concatenate([rates, np.repeat(rates[-1:], calls + 1 - len(rates), axis=0)])
        if self.raised_at is None or self.raised_at > calls:
            return Curve(rates, 1, calls)
        return Curve(rates, 1, calls, self.raised_at, self.error)

    @property
    def _calls(self) -> int:
        return len(self._values) // len(self._groups) - 1

    @property
    def _can_jump(self) -> bool:
        return self.form == CallForm() and knows_any(self.scheduler)

    def _rates(self) -> Rates:
        return np.array(self._values, dtype=np.float64).reshape(-1, len(self._groups))

    def _step_through(self, calls: int) -> None:
        """Call on to `calls`, or as far as time and memory reach; not far if there is a quicker way for the rest."""
        fits = calls * len(self._groups) <= MOST_VALUES
        spent, done = 0.0, 0
        while self._calls < calls and self.raised_at is None and not self._jumped and self._left > 0:
            too_long = done > 0 and spent / done * (calls - self._calls) > self._left
            if self._can_jump and done and (too_long or not fits):
                return
            if len(self._values) >= MOST_VALUES:
                return
            count = min(CHUNK, calls - self._calls)
            started = time.monotonic()
            self._advance(count)
            taken = time.monotonic() - started
            spent, done, self._left = spent + taken, done + count, self._left - taken

    def _advance(self, count: int) -> None:
        """`count` more calls; what the scheduler raises is kept."""
        try:
            self._call(count)
        except (Exception, SystemExit) as error:
            self.raised_at, self.error = self._calls + 1, blamed("scheduler.step", error).message

    def _call(self, count: int) -> None:
        groups, keep, first = self._groups, self._values.extend, self._calls + 1
        if self.form.metric:
            better = 1.0 if getattr(self.scheduler, "mode", "min") == "max" else -1.0
            for index in range(first, first + count):
                getattr(self.scheduler, self.form.method)(better * 2.0**index)
                keep([group["lr"] for group in groups])
            return
        plain = plain_step(self.scheduler, groups) if self.form == CallForm() else None
        if plain is not None:
            for _ in range(count):
                keep(plain())
            return
        call = getattr(self.scheduler, self.form.method)
        if self.form.start is not None:
            for index in range(first, first + count):
                call(*self.form.arguments(index))
                keep([group["lr"] for group in groups])
            return
        for _ in range(count):
            call()
            keep([group["lr"] for group in groups])

    def _sampled(self, calls: int) -> Curve | None:
        """A curve with a stride; None if torch tells another rate than the scheduler had where it was stepped to."""
        self._jumped = True
        if not np.allclose(self._rates_after(self._calls), self._rates()[-1], rtol=1e-6, atol=0):
            return None
        stride = _prime_from(math.ceil(calls / SAMPLES))
        rows = [list(self._values[: len(self._groups)])]
        for call in range(stride, calls + 1, stride):
            try:
                rows.append(self._rates_after(call))
            except (Exception, SystemExit) as problem:
                error = blamed("scheduler.step", problem).message
                return Curve(np.array(rows), stride, calls, self._first_raise(call - stride, call), error)
        return Curve(np.array(rows), stride, calls)

    def _rates_after(self, calls: int) -> list[float]:
        return rates_after(self.scheduler, calls + self._offset, self._groups)

    def _first_raise(self, good: int, bad: int) -> int:
        """The first call that raises, between one that does not and one that does."""
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self._rates_after(middle)
                good = middle
            except (Exception, SystemExit):
                bad = middle
        return bad


def _prime_from(number: int) -> int:
    """The next prime: a stride that shares no factor with the period of a cycle does not hide the cycle."""
    while any(number % factor == 0 for factor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


@dataclass(frozen=True)
class PlannedPeak:
    """The highest rate that one parameter group trains with, and the optimizer step (from 0) at which it first does."""

    rate: float
    step: int


def planned_peaks(session: Session, seconds: float = 3.0, unknown_length: int = 10_000) -> tuple[PlannedPeak, ...]:
    """The planned peak of each parameter group, with the scheduler stepped as the set-up says.

    Uses up the session's scheduler: give it a fresh session. A run of unknown length is taken to have
    `unknown_length` steps. Without a scheduler the present rate is the peak, at step 0; without an optimizer there is none.
    """
    setup = session.setup
    if setup.optimizer is None:
        return ()
    if setup.scheduler is None:
        return tuple(PlannedPeak(rate, 0) for rate in session.learning_rates())
    steps, stretch = session.planned_steps or unknown_length, 1.0
    if session.interval == "epoch":
        stretch = max(1.0, (session.steps_per_epoch or steps) / setup.accumulate_steps)
    form = call_form(setup.scheduler, session.interval)
    calls = max(0, math.ceil(steps / stretch) - 1)
    curve = Schedule(setup.scheduler, setup.optimizer, form, seconds).curve(calls)
    finite = np.where(np.isfinite(curve.rates), curve.rates, -np.inf)
    rows = finite.argmax(axis=0)
    return tuple(
        PlannedPeak(float(finite[row, group]), round(int(row) * curve.stride * stretch))
        for group, row in enumerate(rows)
    )
