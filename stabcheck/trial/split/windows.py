"""Windows cut from one series that share a stretch of it, found by rolling hashes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.trial.split.digests import MIXER, codes
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
    sliding: bool = False
    """Whether most training windows overlap each other in the same way."""


def overlaps(split: Split, fresh: Array) -> Overlap | None:
    """Look for windows of one series in the largest leaf of the input; None if it is no sequence."""
    pair = split.largest()
    if pair is None or not all(isinstance(column.rows, np.ndarray) for column in pair):
        return None
    shape, queries = pair[0].shape, split.unlike(fresh)
    if pair[1].shape != shape or len(shape) not in {1, 2} or not len(queries):
        return None
    found, sliding = [], False
    for axis, steps in enumerate(shape):
        if steps >= SHORTEST:
            train, val = (_time_major(column, axis) for column in pair)
            found.append(overlap(train, val[queries], steps))
            sliding = sliding or overlap(train, train, steps).begin >= SLIDING
    if not found:
        return None
    best = max(found, key=lambda result: len(result.ending))
    train_kept, val_kept = split.train.table.kept, split.val.table.kept[queries]
    pairs = [(int(train_kept[t]), int(val_kept[v]), by) for t, v, by in best.pairs]
    return Overlap(
        rows=val_kept[best.rows],
        begin=best.begin,
        end=best.end,
        beginning=val_kept[best.beginning],
        ending=val_kept[best.ending],
        pairs=pairs,
        sliding=sliding,
    )


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
            # A half that recurs where the rest does not is a set phrase: its place says nothing.
            phrases[query[~same]] = True
            if side == 1:
                found = zip(row[same][:50].tolist(), query[same][:50].tolist(), shift[same][:50].tolist(), strict=True)
                pairs += [(start + t, int(rows[q]), by) for t, q, by in found]
    unique = ~phrases
    if not len(rows) or unique.sum() < TELLING * looked_up:
        return Overlap(rows[:0], 0.0, 0.0, rows[:0], rows[:0], [])
    rows, (head, tail) = rows[unique], seen[:, unique]
    ends = set(rows[tail].tolist())
    some = [pair for pair in pairs if pair[1] in ends]
    return Overlap(rows, float(head.mean()), float(tail.mean()), rows[head], rows[tail], some[:5])


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
