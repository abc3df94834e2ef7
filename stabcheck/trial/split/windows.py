"""Windows cut from one series that share a stretch of it, found by rolling hashes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stabcheck.trial.split.digests import MIXER, codes
from stabcheck.trial.split.levelled import are_levelled, is_one_stretch, shapes
from stabcheck.trial.split.sides import Split
from stabcheck.trial.split.table import Column

Array = np.ndarray[Any, Any]

SHORTEST = 8
"""Steps; half of a shorter window coincides by chance too often."""

QUERIES = 2000
"""Validation windows looked up: their share is then known to within 2 percentage points."""

BLOCKS = 2**22
"""Hashes made at a time: 32 MiB."""

INFORMATION = 64.0
"""Bits that half a window must hold by the frequencies of its single steps. Letters in their order have about a third of
that (1.3 of 4.1 bits, Shannon 1951): blocks of source code of 20 letters, 45 bits a half, still share 0.2 by their phrases,
of 32 letters and more below 0.17, of 50 below 0.05."""

TELLING = 0.3
"""Share of the windows looked up that must show where they come from, or the series is too repetitive to be judged."""

SLIDING = 0.5
"""Share of the training windows that begin within another one where windows slide along a series in small steps."""

_INVERSE = np.uint64(pow(int(MIXER), -1, 2**64))


@dataclass(frozen=True)
class Overlap:
    """How many validation windows share half of themselves or more with a training window, the two being shifted."""

    rows: Array
    """Validation rows looked up, those left out that do not show where they come from."""
    begin: float
    """Share whose first half lies in a training window."""
    end: float
    """Share whose last half does."""
    beginning: Array
    """Rows of the former."""
    ending: Array
    """Rows of the latter."""
    pairs: list[tuple[int, int, int]]
    """Some (training row, validation row, shift in steps)."""
    places: Array
    """(k, 3): for each such meeting, side (0 first half, 1 last), number among `looked_up` and shift; each once."""
    looked_up: Array
    """Rows searched for, as `places` counts them."""
    within: float = 0.0
    """The mean of `begin` and `end` for training windows among the others, those left out that have an equal."""
    seams: float = 0.0
    """See `seams`."""

    @property
    def either(self) -> float:
        """Share of the windows that begin or end within a training window."""
        return len(np.union1d(self.beginning, self.ending)) / max(1, len(self.rows))

    @property
    def sliding(self) -> bool:
        """Whether most training windows overlap each other in the same way."""
        return self.within >= SLIDING


def overlaps(split: Split, fresh: Array) -> Overlap | None:
    """Look for windows of one series in the largest leaf of the input; None if it is no sequence."""
    pair = split.largest()
    if pair is None or not all(isinstance(column.rows, np.ndarray) for column in pair):
        return None
    shape, queries = pair[0].shape, split.unlike(fresh)
    if pair[1].shape != shape or len(shape) not in {1, 2} or not len(queries):
        return None
    table, found = split.train.table, []
    _, first, times = np.unique(table.inputs[table.kept], return_index=True, return_counts=True)
    single = np.sort(first[times == 1])
    for axis, steps in enumerate(shape):
        if steps >= SHORTEST:
            train, val = (_time_major(column, axis) for column in pair)
            if steps - 2 >= SHORTEST and all(are_levelled(side, steps) for side in (train, val)):
                levelled = _levelled(train, val, queries, single, steps)
                found += [levelled] if levelled is not None else []
                continue
            # As of the validation windows, those that have an equal in training are left out.
            meetings, own = overlap(train, val[queries], steps), overlap(train, train[single], steps)
            share = seams(train, val[queries], steps, meetings)
            found.append(replace(meetings, within=(own.begin + own.end) / 2, seams=share))
    if not found:
        return None
    best = max(found, key=lambda result: (len(result.ending), result.within))
    train_kept, val_kept = split.train.table.kept, split.val.table.kept[queries]
    pairs = [(int(train_kept[t]), int(val_kept[v]), by) for t, v, by in best.pairs]
    return replace(
        best,
        rows=val_kept[best.rows],
        beginning=val_kept[best.beginning],
        ending=val_kept[best.ending],
        pairs=pairs,
    )


def _levelled(train: Array, val: Array, queries: Array, single: Array, steps: int) -> Overlap | None:
    """The same by the shapes of windows that have one level and scale; None if what looks alike is not one stretch."""
    one, two, length = shapes(train, steps), shapes(val, steps), steps - 2
    meetings, own = overlap(one, two[queries], length), overlap(one, one[single], length)
    # Of the pairs it is known that the last part of the validation window lies in the training window.
    if not all(is_one_stretch(train[t], val[queries[v]], steps, by, at_end=True) for t, v, by in meetings.pairs):
        return None
    share = seams(one, two[queries], length, meetings)
    return replace(meetings, within=(own.begin + own.end) / 2, seams=share)


def _time_major(column: Column, axis: int) -> Array:
    rows = np.asarray(column.rows)
    if len(column.shape) == 2 and axis == 1:
        rows = rows.reshape(-1, *column.shape).transpose(0, 2, 1).reshape(len(rows), -1)
    return np.ascontiguousarray(rows)


def overlap(train: Array, val: Array, steps: int, *, seed: int = 0) -> Overlap:
    """Look for validation windows whose first or last half occurs in training windows at another position.

    `train` and `val` are (n, steps * values a step), time-major.
    """
    half = steps // 2
    rows = np.sort(np.random.default_rng(seed).permutation(len(val))[:QUERIES])
    looked_up = len(rows)
    rows = rows[_telling(val[rows], steps)]
    if _entropy(_steps(val[rows], steps)) * half < INFORMATION:
        rows = rows[:0]
    mine = _prefix(val[rows], steps)
    seen, phrases = np.zeros((2, len(rows)), bool), np.zeros(len(rows), bool)
    pairs: list[tuple[int, int, int]] = []
    places = [np.empty((0, 3), int)]
    size = max(1, BLOCKS // steps)
    for start in range(0, len(train) if len(rows) else 0, size):
        theirs = _prefix(train[start : start + size], steps)
        there = _blocks(theirs, half)
        for side, digests in enumerate((_blocks(mine, half)[:, 0], _blocks(mine, half)[:, -1])):
            order = np.argsort(digests, kind="stable")
            row, at = np.nonzero(np.isin(there, digests))
            query = order[np.searchsorted(digests[order], there[row, at])]
            # First half: the windows agree from `at` of theirs on; last half: up to where it ends in theirs.
            shift = at if side == 0 else steps - half - at
            row, query, shift = row[shift > 0], query[shift > 0], shift[shift > 0]
            length, none = steps - shift, 0 * shift
            from_theirs, from_mine = (shift, none) if side == 0 else (none, shift)
            same = _span(theirs, row, from_theirs, length) == _span(mine, query, from_mine, length)
            seen[side, query[same]] = True
            places.append(np.unique(np.stack([side + 0 * query, query, shift], axis=1)[same], axis=0))
            # A half that recurs where the rest does not is a set phrase: its place says nothing.
            phrases[query[~same]] = True
            if side == 1:
                found = zip(row[same][:50].tolist(), query[same][:50].tolist(), shift[same][:50].tolist(), strict=True)
                pairs += [(start + t, int(rows[q]), by) for t, q, by in found]
    unique = ~phrases
    if not len(rows) or unique.sum() < TELLING * looked_up:
        return Overlap(rows[:0], 0.0, 0.0, rows[:0], rows[:0], [], places[0], rows)
    searched, rows, (head, tail) = rows, rows[unique], seen[:, unique]
    ends = set(rows[tail].tolist())
    some = [pair for pair in pairs if pair[1] in ends]
    return Overlap(
        rows,
        float(head.mean()),
        float(tail.mean()),
        rows[head],
        rows[tail],
        some[:5],
        np.unique(np.concatenate(places), axis=0),
        searched,
    )


def seams(train: Array, val: Array, steps: int, found: Overlap) -> float:
    """How often, where a training window covers one end of a validation window, another one begins exactly where it ends
    and covers the rest; less how often another does so in the validation windows that the first does not cover.

    0 where windows are cut at places that do not depend on each other, or at all places of a grid. Training windows cut
    edge to edge go on like this wherever a passage of theirs recurs.
    """
    half = steps // 2
    mine, theirs = _prefix(val[found.looked_up], steps), _prefix(train[: max(1, BLOCKS // steps)], steps)
    all_mine, all_theirs = np.arange(len(mine)), np.arange(len(theirs))
    excess, times = np.zeros(len(mine)), np.zeros(len(mine))
    # A rest that is shorter than a quarter recurs anyway.
    for side, shift in np.unique(found.places[2 * found.places[:, 2] >= half][:, [0, 2]], axis=0).tolist():
        rest, edge = (steps - shift, 0) if side == 0 else (0, steps - shift)
        covers = _span(theirs, all_theirs, np.full_like(all_theirs, edge), np.full_like(all_theirs, shift))
        goes_on = np.isin(_span(mine, all_mine, np.full_like(all_mine, rest), np.full_like(all_mine, shift)), covers)
        met = np.zeros(len(mine), bool)
        met[found.places[(found.places[:, 0] == side) & (found.places[:, 2] == shift), 1]] = True
        excess[met] += goes_on[met] - (goes_on[~met].mean() if not met.all() else 0.0)
        times += met
    # A passage that recurs in a hundred windows counts once for each validation window that holds it.
    return float((excess[times > 0] / times[times > 0]).mean()) if times.any() else 0.0


def _telling(windows: Array, steps: int) -> Array:
    """Which windows show where they come from: neither half recurs in the window, as in constant and periodic ones, and
    each has at least a quarter as many different steps as steps."""
    half, codes = steps // 2, _steps(windows, steps)
    blocks = _blocks(_prefix(windows, steps), half)
    telling = ((blocks == blocks[:, :1]).sum(axis=1) == 1) & ((blocks == blocks[:, -1:]).sum(axis=1) == 1)
    for part in (codes[:, :half], codes[:, steps - half :]):
        ordered = np.sort(part, axis=1)
        telling &= 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) >= half / 4
    return np.asarray(telling)


def _entropy(codes: Array) -> float:
    """Bits a step, by the frequencies of the codes."""
    _, times = np.unique(codes, return_counts=True)
    return float(-(times / max(1, codes.size) * np.log2(times / max(1, codes.size))).sum())


def _steps(windows: Array, steps: int) -> Array:
    """(n, steps): one uint64 code for each step of each window."""
    width = windows.shape[1] // steps
    coded = codes(windows.reshape(-1, width)).sum(axis=1, dtype=np.uint64)
    return np.asarray(coded.reshape(len(windows), steps))


def _powers(base: np.uint64, count: int) -> Array:
    return np.cumprod(np.concatenate([[np.uint64(1)], np.full(count, base, np.uint64)]), dtype=np.uint64)


def _prefix(windows: Array, steps: int) -> Array:
    """(n, steps + 1): sums of code_i * MIXER**i, modulo 2**64, so that any stretch has its hash by one subtraction."""
    weighted = _steps(windows, steps) * _powers(MIXER, steps)[:steps]
    return np.concatenate(
        [np.zeros((len(windows), 1), np.uint64), np.cumsum(weighted, axis=1, dtype=np.uint64)], axis=1
    )


def _blocks(sums: Array, length: int) -> Array:
    """(n, steps - length + 1): the hash of every stretch of `length` steps."""
    return (sums[:, length:] - sums[:, : sums.shape[1] - length]) * _powers(_INVERSE, sums.shape[1])[
        : sums.shape[1] - length
    ]


def _span(sums: Array, row: Array, start: Array, length: Array) -> Array:
    return np.asarray((sums[row, start + length] - sums[row, start]) * _powers(_INVERSE, sums.shape[1])[start])
