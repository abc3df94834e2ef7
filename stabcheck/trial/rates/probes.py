"""Paired probes: the same start and batches at several rates, on a scale that knows nothing of the loss's own."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from stabcheck import stats
from stabcheck.check import Skip
from stabcheck.reading import GROWN, STALLED, TAIL, Scale, floor_below
from stabcheck.recording import Recording
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.rates.edge import Edge, EdgeSearch
from stabcheck.trial.rates.scaled import RatePlan, ScaledRates
from stabcheck.trial.rng import seed_all
from stabcheck.userland import UserCodeError

UNBOUNDED = -1e3
"""A floor below this is none worth the name: densities that go to infinity reach it only with vanishing width."""
FLAT = 1e-3
"""A gap between the best constant and the best prediction below this share of the larger of them is none."""
REACHED = 0.8
"""Share of the planned peak that the trial must have reached for its own rates to speak for the peak."""
RAMP = 80
"""Optimizer steps within which a longer warm-up is gone through; the faster rise is the harder one."""


class Bounds:
    """The losses that the probes are judged between: the best constant guess, or the first loss where none is known or the
    best prediction does not beat it, and the floor; and those that a training which is not lost stays below."""

    def __init__(self, recording: Recording) -> None:
        levels = recording.yardsticks
        constant, floor = levels.constant, levels.oracle
        self.first = recording.losses[0]
        self.is_known = constant is not None
        height = constant if constant is not None else self.first
        self.scale = Scale(height, floor if floor is not None and floor > UNBOUNDED else floor_below(height))
        if self.scale.gap <= FLAT * max(abs(height), abs(self.scale.floor)):
            self.is_known, self.scale = False, Scale(self.first, floor_below(self.first))
        self.top = max(self.scale.constant, levels.zero if levels.zero is not None else self.scale.constant)

    def is_lost(self, loss: float) -> bool:
        """Whether the loss grew out of every bound that the start and constant guesses set."""
        floor = self.scale.floor
        return not math.isfinite(loss) or (self.is_known and loss - floor > GROWN * (max(self.top, self.first) - floor))


class Probes:
    """Probes at several multiples of the planned rate, each made once; those with the same `repeat` are comparable step by
    step. `seconds` is the time for all of them."""

    def __init__(self, bench: Bench, recording: Recording, seconds: float) -> None:
        self.bench, self.recording, self.seconds = bench, recording, seconds
        share = recording.warmup_share
        try:
            peaks = bench.peak_rates()
        except (Skip, UserCodeError):  # lr-schedule tells what is wrong with it
            peaks = ()
        self.plan = RatePlan(peaks, RAMP if share is not None and share < REACHED else 0)
        self.steps = recording.planned + self.plan.ramp * recording.accumulate_steps
        """Calls of the step in a probe: those of the trial, after the shortened warm-up where there is one."""
        self.bounds = Bounds(recording)
        self._made: dict[tuple[float, int, int], Probe] = {}
        self._seconds_per_step = 0.0

    @property
    def scale(self) -> Scale:
        """From the best constant guess, or what stands in for it, to the floor."""
        return self.bounds.scale

    @staticmethod
    def end(losses: Sequence[float], count: int = TAIL) -> float:
        """Median of the last losses, which a batch far off does not move; infinite if one of them is not a number."""
        last = losses[-count:]
        return stats.median(last) if last and all(map(math.isfinite, last)) else math.inf

    def affords(self, calls: int) -> bool:
        """Whether so many more calls of the step fit the time."""
        return calls * self._seconds_per_step <= min(self.seconds, self.bench.remaining())

    def losses(self, factor: float, repeat: int = 0) -> tuple[float, ...]:
        """The losses of the probe at `factor` times the planned rates; those of the trial, where it was such a probe."""
        if factor == 1 and not repeat and not self.plan.ramp:
            return self.recording.losses
        return self.probe(factor, self.steps, repeat).losses

    def probe(
        self,
        factor: float,
        steps: int,
        repeat: int = 0,
        *,
        search_at: tuple[int, ...] = (),
    ) -> Probe:
        """The probe of so many calls at `factor` times the planned rates."""
        key = (factor, repeat, steps)
        if key not in self._made:
            self.bench.tell(None, f"a short training at {factor:g} times your learning rate")
            started = time.monotonic()
            made = run_probe(self.bench, self.plan, factor, steps, repeat=repeat, search_at=search_at)
            self._seconds_per_step = max(self._seconds_per_step, made.seconds_per_step)
            self.seconds -= time.monotonic() - started
            self._made[key] = made
        return self._made[key]

    def curves(self) -> dict[str, list[float]]:
        """The losses of the longest probe at each factor from the trial's own start."""
        longest: dict[float, tuple[float, ...]] = {}
        for (factor, repeat, _), probe in self._made.items():
            if not repeat and len(probe.losses) > len(longest.get(factor, ())):
                longest[factor] = probe.losses
        return {f"{factor:g} × your rate": list(losses) for factor, losses in sorted(longest.items())}

    def is_bad(self, losses: Sequence[float], count: int = TAIL) -> bool:
        """Whether a training has learnt nothing about its inputs."""
        last = self.end(losses, count)
        return self.bounds.is_lost(last) or (self.bounds.is_known and self.scale.share(last) < STALLED)

    def is_good(self, losses: Sequence[float], learnt: float, *, beside_lost: bool) -> bool:
        """Whether a training covered the share `learnt` of the way; beside one that is lost it is enough to come half as far
        from the first loss."""
        last, bounds = self.end(losses), self.bounds
        if len(losses) < self.steps or bounds.is_lost(last):
            return False
        fallen = (bounds.first - last) / max(bounds.first - self.scale.floor, 1e-30)
        return (bounds.is_known and self.scale.share(last) >= learnt) or (beside_lost and fallen >= learnt / 2)


@dataclass(frozen=True)
class Probe:
    """One short training. `repeat` 0 sees the start and the batches of the trial, others have their own."""

    factor: float
    repeat: int
    losses: tuple[float, ...]
    """Loss before each step; the last one may be infinite or NaN, which ends a probe."""
    seconds_per_step: float
    edges: tuple[Edge, ...] = ()
    why_not: str = ""
    """Why it ended before its time, if it did and the loss is still a number."""


def run_probe(
    bench: Bench,
    plan: RatePlan,
    factor: float,
    steps: int,
    *,
    repeat: int = 0,
    search_at: tuple[int, ...] = (),
) -> Probe:
    """Train a fresh set-up for `steps` calls of its own step at `factor` times the planned rates.

    Stops at a loss that is not finite and at the end of the bench's time. At the steps `search_at`
    it also searches along the update for the largest stable rate.

    Raises:
        Skip: building the set-up again does not fit the budget.
        UserCodeError: the user's function raised, or not even one step could be taken.
    """
    session = bench.session(bench.seed + repeat)
    if repeat:  # a set-up that seeds itself, or a loader with its own generator, would repeat its order
        seed_all(bench.seed + repeat)
        for _ in range(repeat):
            session.first_batch()
    rates, losses, why_not = ScaledRates(session, plan, factor), list[float](), ""
    search = EdgeSearch(session, rates, bench.seed) if search_at else None
    searching = 0.0
    started = time.monotonic()
    iterator = session.train_batches()
    with rates.active():
        for index in range(steps):
            try:
                _, batch = next(iterator)
                if search is not None and index in search_at:
                    before = time.monotonic()
                    loss = search.step(batches.clone(batch))
                    searching += time.monotonic() - before
                else:
                    if search is not None:
                        search.keep(batch, wanted=index + 1 in search_at)
                    loss = session.step(batch)
            except UserCodeError as error:
                # What a scaled rate or another start breaks is no fault of the user's.
                if (not losses and factor == 1 and not repeat) or error.blame == "stabcheck":
                    raise
                why_not = error.message
                break
            if loss is None:
                why_not = "train_step returns no loss"
                break
            losses.append(loss)
            if not math.isfinite(loss):
                break
            if bench.remaining() < 0:
                why_not = "the time was up"
                break
    if not rates.any and not why_not:
        why_not = "no torch optimizer with a learning rate stepped weights of the model"
    each = (time.monotonic() - started - searching) / max(len(losses), 1)
    return Probe(factor, repeat, tuple(losses), each, tuple(search.found) if search else (), why_not)
