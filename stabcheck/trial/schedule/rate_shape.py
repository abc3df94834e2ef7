"""What a curve of learning rates looks like: its peak, where it is spent, where it climbs back, where it ends.

Every number is relative to the curve's own peak and length, so nothing here depends on the size of the rates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rates = npt.NDArray[np.float64]

SPENT = 0.999
"""The rate counts as spent where this share of the sum of all rates lies behind: what follows moves the weights by
a thousandth of what came before, whatever the optimizer."""
NEGLIGIBLE = float(np.finfo(np.float32).eps)
"""Below this share of the peak an update is rounded off: at the peak a step moves a weight by its own size at most."""
HIGH = 0.75
"""Share of the highest rate from which on a peak is one of the peaks."""
TURN = 0.1
"""A rise counts from this share of the peak on. A cosine that is a fifth too short climbs back that far."""

SPENT_EARLY = 0.5
"""A schedule that is spent before half of the run is over leaves most of the run without training. Measured: cosine
is spent at 0.92 of its length, linear at 0.97, exponential down to 1e-5 at 0.60, a tenfold drop every fifth at 0.60."""
DEAD_TAIL = 0.1
"""Share of the run at a negligible rate that is more than a rounding of the length."""


@dataclass(frozen=True)
class Shape:
    """One curve. Positions are indices into it."""

    peak: float
    peak_at: int
    """Index of the first high peak."""
    first: float
    last: float
    spent_at: int
    """First index with `SPENT` of the sum at or before it."""
    dead_from: int
    """First index of the tail in which every rate is negligible; the length of the curve if there is none."""
    climb: float
    """How far the rate has gradually climbed from its last valley when the curve ends, as a share of the peak."""
    valley_at: int
    """Where that valley is."""
    rises: tuple[tuple[int, int], ...]
    """Gradual rises after a valley: where each begins and where it ends."""
    restarts: int
    """Valleys that were followed by a rise in one call."""

    @property
    def swings(self) -> int:
        """Valleys that were followed by a gradual rise."""
        return len(self.rises)


def shape_of(rates: Rates) -> Shape:
    """The shape of a curve of finite rates that are not negative, at least one of them above zero."""
    peak = float(rates.max())
    peak_at = first_peak(rates)
    total = np.cumsum(rates)
    alive = np.flatnonzero(rates > NEGLIGIBLE * peak)
    rises, restarts, valley_at = _swings(rates, TURN * peak)
    since = rates[valley_at:]
    climbs = valley_at > peak_at and rates[-1] > since[0] and rates[-1] >= 0.9 * since.max() and not _jumps(since)
    return Shape(
        peak=peak,
        peak_at=peak_at,
        first=float(rates[0]),
        last=float(rates[-1]),
        spent_at=int(np.searchsorted(total, SPENT * total[-1])),
        dead_from=int(alive[-1]) + 1,
        climb=float(rates[-1] - since[0]) / peak if climbs else 0.0,
        valley_at=valley_at,
        rises=rises,
        restarts=restarts,
    )


def first_peak(rates: Rates) -> int:
    """The first of the high peaks. The highest of a periodic curve may be a later one: by rounding, or as its warm-up ends."""
    high = int(np.argmax(rates >= HIGH * rates.max()))
    falls = np.flatnonzero(np.diff(rates[high:]) <= 0)
    return high + int(falls[0]) if len(falls) else len(rates) - 1


def _swings(rates: Rates, size: float) -> tuple[tuple[tuple[int, int], ...], int, int]:
    """Where the curve, having fallen by `size`, gradually rises by `size`, how often it does so at once, and its last valley."""
    moves = np.sign(np.diff(rates))
    moving = np.flatnonzero(moves)
    turns = moving[1:][moves[moving][1:] != moves[moving][:-1]]
    gradual, at_once, falling = list[tuple[int, int]](), 0, False
    high, low, low_at = float(rates[0]), float(rates[0]), 0
    for index in (*turns.tolist(), len(rates) - 1):
        rate = float(rates[index])
        if falling and rate < low:
            low, low_at = rate, index
        elif falling and rate - low >= size:
            falling, high = False, rate
            jump = _jumps(rates[low_at : index + 1])
            gradual += [] if jump else [(low_at, index)]
            at_once += jump
        elif not falling and rate > high:
            high = rate
        elif not falling and high - rate >= size:
            falling, low, low_at = True, rate, index
    return tuple(gradual), at_once, low_at


def valleys_of(rates: Rates) -> list[int]:
    """Where the curve turns from falling to rising, of a flat bottom the last index; and where it ends."""
    moves = np.sign(np.diff(rates))
    moving = np.flatnonzero(moves)
    before, after = moves[moving][:-1], moves[moving][1:]
    found: list[int] = moving[1:][(before < 0) & (after > 0)].tolist()
    return [*found, len(rates) - 1]


def _jumps(rise: Rates) -> bool:
    """Whether nearly all of a rise happens in one call."""
    return float(np.diff(rise).max(initial=0.0)) >= 0.9 * float(rise[-1] - rise[0])


def last_change(rates: Rates) -> int:
    """The last index at which the rate differs from the one before; 0 for a constant."""
    changes = np.flatnonzero(np.diff(rates))
    return int(changes[-1]) + 1 if len(changes) else 0


@dataclass(frozen=True)
class End:
    """Where a schedule is over by its own measure: in a valley from which it rises again, or on its floor."""

    at: int
    rises: bool
    gradual: bool
    """It got there in many small steps, so that its length is meant; milestones may stand anywhere."""


def natural_end(rates: Rates) -> End | None:
    """Where the schedule ends by itself; None if it goes on falling as far as the curve reaches, or never falls."""
    bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    curve = rates[: bad[0]] if len(bad) else rates
    if len(curve) < 2 or curve.max() <= 0:
        return None
    peak = float(curve.max())
    start = first_peak(curve)
    after = curve[start:]
    lowest = np.minimum.accumulate(after)
    risen = np.flatnonzero(after - lowest >= TURN * peak)
    if len(risen):
        at = start + int(np.argmin(after[: risen[0]]))
        return End(at, True, _gradual(curve[start : at + 1]))
    if len(bad):
        return End(len(curve) - 1, False, _gradual(after))
    away = np.flatnonzero(np.abs(after - after[-1]) > 1e-9 * peak)
    if not len(away):
        return None
    at = start + int(away[-1]) + 1
    falls = after[-1] <= (1 - TURN) * peak
    settled = at <= 0.95 * (len(curve) - 1)
    # An exponential reaches any small number some time: half-way there it has lost half of its digits.
    endless = curve[start + (at - start) // 2] - after[-1] < 1e-3 * peak
    return End(at, False, _gradual(curve[start : at + 1])) if falls and settled and not endless else None


def _gradual(fall: Rates) -> bool:
    # A long stay at the peak before the decay, as in warm-up-stable-decay, is no part of it.
    steps = -np.diff(fall[np.flatnonzero(fall >= (1 - TURN) * fall.max())[-1] :])
    return (
        len(steps) > 1
        and float(steps.max()) < 0.5 * float(steps.sum())
        and int(np.count_nonzero(steps)) > 0.5 * len(steps)
    )


def distinct(rates: Rates, most: int = 8) -> list[int]:
    """Columns (parameter groups) that are not just multiples of an earlier one, `most` at most."""
    found: dict[bytes, int] = {}
    rows = np.unique(np.linspace(0, len(rates) - 1, 1000).astype(int))
    for group in range(rates.shape[1]):
        column = rates[rows, group]
        size = np.abs(column).max()
        found.setdefault(np.round(column / size if 0 < size < np.inf else column, 6).tobytes(), group)
    return list(found.values())[:most]


def varying(rates: Rates) -> list[int]:
    """Columns (parameter groups) whose rate has a shape to be judged: different ones, neither constant nor zero."""
    return [g for g in distinct(rates) if rates[:, g].max() > 0 and last_change(rates[:, g])]


def thin(rates: Rates, most: int = 200) -> list[int]:
    """At most `most` row indices that keep the ends, the extremes and the jumps of every distinct column."""
    if len(rates) <= most:
        return list(range(len(rates)))
    columns = distinct(rates, 4)
    kept = {0, len(rates) - 1}
    for group in columns:
        column = rates[:, group]
        kept |= {int(np.argmax(column)), int(np.argmin(column))}
        moves = np.abs(np.diff(column))
        jumps = np.argsort(moves)[-8:]
        # A jump is a move far above the usual one; on a smooth curve there is none to keep.
        kept |= {int(i) + side for i in jumps if moves[i] > 10 * moves.mean() for side in (0, 1)}
    buckets = max(2, (most - len(kept)) // (2 * len(columns)))
    edges = np.linspace(0, len(rates), buckets + 1).astype(int)
    for group in columns:
        for low, high in itertools.pairwise(edges):
            part = rates[low:high, group]
            kept |= {int(low + np.argmax(part)), int(low + np.argmin(part))}
    return sorted(kept)


def rounded(rates: Any) -> list[float]:
    """Rates with the seven digits that a reader can use."""
    return [float(f"{rate:.7g}") for rate in rates]
