"""Whether a scheduler that waits for a metric cuts the rate while there is still something to learn at it.

When it cuts depends on what the run feeds it, so the real steps are made, as many as it takes to see; and then the same
steps again with the rate held where it was.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from stabcheck import stats
from stabcheck.reading import TAIL
from stabcheck.trial.bench import Bench
from stabcheck.trial.schedule.cadence import Observed, counted, endless
from stabcheck.trial.session import Session
from stabcheck.trial.steps import step_losses

LOW = 0.01
"""Share of the first rate that is another training: what good rates of one set-up span is a factor of ten either way."""
EARLY = 0.6
"""Share of the planned steps within which the rate must have come so low for it to be early."""
ENOUGH = 200
"""Calls of the step that show what is to be learnt at the full rate."""
BETTER = 0.2
"""Share of the way from the first loss down that must be lost by the cuts."""
LEAST, REST = 0.05, 0.3
"""The same where the way is long because the start was bad, and the share of what is left of a loss that cannot be negative."""


@dataclass(frozen=True)
class Cut:
    """A rate that was cut too early: what the training came to, and what it came to without."""

    at: int
    """Optimizer steps or micro-batches (calls of the step) after which the rate was LOW."""
    steps: int
    """Calls of the step after which both are compared."""
    rate: float
    low: float
    own: float
    held: float
    calls: int
    """Calls of the scheduler in the first `at` steps."""
    metrics: tuple[float, ...]
    """What these were given, as far as they were numbers."""

    @property
    def turned(self) -> tuple[float, float] | None:
        """Where the metric began and ended, if its later half lies wholly to one side of the earlier; noise does not do that."""
        half = len(self.metrics) // 2
        before, after = self.metrics[:half], self.metrics[len(self.metrics) - half :]
        if half < 2 or (max(before) >= min(after) and min(before) <= max(after)):
            return None
        return before[0], after[-1]


def cut_while_learning(bench: Bench, planned: int | None, seconds: float) -> Cut | None:
    """The cut, if one is seen in `seconds` for each of the two trainings; `planned` is the run's length in calls of the step.

    Raises:
        UserCodeError: the set-up, the loader or the step raised.
    """
    session = bench.session()
    scheduler = session.setup.scheduler
    by_loop = session.setup.train_step is None and session.interval != "step"
    if not isinstance(scheduler, ReduceLROnPlateau) or planned is None or by_loop:
        return None
    watch = _Watch(session, scheduler, planned, time.monotonic() + seconds)
    at = watch.until_low()
    if at is None:
        return None
    rest = itertools.islice(watch.batches, min(planned, max(2 * at + TAIL, ENOUGH)) - at)
    own = watch.losses + list(_numbers(step_losses(session, rest, deadline=time.monotonic() + seconds)))
    again = bench.session()
    given = itertools.islice(endless(again), len(own))
    deadline = time.monotonic() + 3 * seconds
    held = list(_numbers(step_losses(again, given, rates=watch.rates, deadline=deadline)))
    if len(held) < len(own) or not all(map(math.isfinite, (*own, *held))):
        return None
    tail = max(TAIL, len(own) // 10)
    ends = stats.mean(own[-tail:]), stats.mean(held[-tail:])
    if not _is_lost(own, held, ends, tail):
        return None
    top = max(watch.rates)
    calls, metrics = watch.seen_by_then
    return Cut(at, len(own), top, watch.low, *ends, calls, metrics)


class _Watch:
    """The set-up's own steps, with an eye on its rate."""

    def __init__(self, session: Session, scheduler: Any, planned: int, deadline: float) -> None:
        self.session, self.scheduler, self.deadline = session, scheduler, deadline
        self.most = int(EARLY * planned)
        self.batches = endless(session)
        self.rates = session.learning_rates()
        self.losses: list[float] = []
        self.low = math.nan
        self.seen = Observed()
        self.seen_by_then: tuple[int, tuple[float, ...]] = (0, ())

    def until_low(self) -> int | None:
        """Calls of the step until the rate is low; None if it does not get there, or not in time."""
        per_epoch, calls, pace = self.session.steps_per_epoch or self.most, 0, 0.0
        with counted(self.scheduler, "step", self.seen):
            for loss in _numbers(step_losses(self.session, itertools.islice(self.batches, self.most))):
                self.losses.append(loss)
                done = len(self.losses)
                if self.seen.calls > calls:
                    calls, pace = self.seen.calls, done / self.seen.calls
                share = max(
                    now / max(was, 1e-300) for now, was in zip(self.session.learning_rates(), self.rates, strict=True)
                )
                if share <= LOW:
                    self.low = max(self.session.learning_rates())
                    numbers = (args[0] for _, args in self.seen.arguments if args)
                    self.seen_by_then = calls, tuple(map(float, numbers))
                    return done
                if time.monotonic() > self.deadline or not math.isfinite(loss) or (not calls and done > per_epoch):
                    return None
                if calls and done + self._calls_to(LOW / share) * pace > self.most:
                    return None
        return None

    def _calls_to(self, share: float) -> float:
        """The fewest calls that bring the rate to `share` of what it is."""
        factor, patience, bad = (getattr(self.scheduler, key) for key in ("factor", "patience", "num_bad_epochs"))
        if not 0 < factor < 1:
            return math.inf
        return float(math.ceil(math.log(share) / math.log(factor)) * (patience + 1) - bad)


def _numbers(losses: Iterator[float | None]) -> Iterator[float]:
    return (math.nan if loss is None else loss for loss in losses)


def _is_lost(own: Sequence[float], held: Sequence[float], ends: tuple[float, float], tail: int) -> bool:
    """Whether the cuts cost much of what the same batches teach, and more than the scatter between the two courses."""
    gap, way = ends[0] - ends[1], stats.mean(own[:3]) - ends[1]
    apart = [a - b for a, b in zip(own[-tail:], held[-tail:], strict=True)]
    much = gap >= BETTER * way or (gap >= LEAST * way and min(*own, *held) >= 0 and gap >= REST * ends[0])
    return much and gap > 2 * statistics.stdev(apart) / math.sqrt(tail)
