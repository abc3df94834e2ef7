"""A set-up's own steps against the same with one option changed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from stabcheck import stats
from stabcheck.check import Skip
from stabcheck.reading import FALLING, TAIL, Scale, floor_below
from stabcheck.recording import Recording
from stabcheck.trial.bench import Bench
from stabcheck.trial.optimizers.rerun import rerun
from stabcheck.trial.optimizers.suspects import Suspect
from stabcheck.userland import UserCodeError

SECONDS, SHARE = 5.0, 0.1
"""For one course of steps: at most, and of the remaining budget."""
FEWEST = 3 * TAIL
"""Steps of which something can be said."""


@dataclass(frozen=True)
class Comparison:
    """How far the steps came with the option as it is and with it changed. A share of 0 is the best constant guess, 1 the
    loss's floor; the first pair is the bench's seed, the second the next one's."""

    steps: int
    own: float
    repaired: float
    constant: float
    shares: tuple[tuple[float, float], ...]
    falls: bool
    """The own steps still make the loss fall in the second half."""
    catches_up: bool
    """At their pace so far the own steps get half-way within the planned run, or its length is not known."""


def compare(bench: Bench, suspect: Suspect, recording: Recording) -> Comparison | str:
    """The outcome over two seeds, the second only where the first shows a difference; else why there is none."""
    levels = recording.yardsticks
    if levels.constant is None:
        return f"it is not known what counts as learnt: {levels.note}"
    floor = levels.oracle if levels.oracle is not None else floor_below(levels.constant)
    first: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    shares: list[tuple[float, float]] = []
    for seed in (bench.seed, bench.seed + 1):
        try:
            changed = rerun(bench, suspect.change, steps=suspect.steps, seed=seed, deadline=_deadline(bench))
            if math.isnan(changed[0]):
                return "the step returns no loss"
            if len(changed) < min(FEWEST, suspect.steps):
                return "the steps without it take too long, or end in NaN too"
            own = rerun(bench, None, steps=len(changed), seed=seed, deadline=math.inf)
        except (UserCodeError, Skip) as error:
            return f"the steps could not be taken again ({error})"
        first = first or (own, changed)
        scale = _scale(levels.constant, floor, own, changed)
        shares.append((scale.share(_level(own)), scale.share(_level(changed))))
        if shares[-1][0] > 0.5 * shares[-1][1]:
            break
    assert first is not None
    own, changed = first
    scale = _scale(levels.constant, floor, own, changed)
    planned = recording.planned_steps
    pace = max(shares[0][0], 0.0) / len(own)
    return Comparison(
        steps=len(changed), own=_level(own), repaired=_level(changed), constant=levels.constant, shares=tuple(shares),
        falls=_falls(own, scale), catches_up=planned is None or pace * planned >= 0.5,
    )  # fmt: skip


def _scale(constant: float, floor: float, *courses: Sequence[float]) -> Scale:
    """The floor is sought by a minimiser that may stop short, at tiny losses for example: no course lies below it."""
    return Scale(constant, min(floor, *map(_level, courses)))


def _deadline(bench: Bench) -> float:
    return time.monotonic() + max(0.0, min(SECONDS, SHARE * bench.remaining()))


def _level(losses: Sequence[float]) -> float:
    """Mean over the end of the course; infinite if it broke off at NaN."""
    last = losses[-max(TAIL, len(losses) // 10) :]
    return stats.mean(last) if all(map(math.isfinite, last)) else math.inf


def _falls(losses: Sequence[float], scale: Scale) -> bool:
    half = len(losses) // 2
    if not all(map(math.isfinite, losses)):
        return False
    return stats.mean(losses[half:]) < stats.mean(losses[:half]) - FALLING * scale.gap
