"""Windows cut from one series that share a stretch of it, found by rolling hashes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.trial.duplicates import MIXER
from stabcheck.trial.split import Split
from stabcheck.trial.table import Column

Array = np.ndarray[Any, Any]

SHORTEST = 8
"""Steps; half of a shorter window coincides by chance too often."""

QUERIES = 2000
"""Validation windows looked up: their share is then known to within 2 percentage points."""

BLOCKS = 2**22
"""Hashes made at a time: 32 MiB."""

CONFIRMED = 0.5
"""Share of the partial matches that must extend over the whole overlap. Of windows from one series all do, of those from a
licence text with its set phrases 0.84, of random digits and random walks on whole numbers 0.03 to 0.07."""

SLIDING = 0.5
"""Share of the training windows that begin within another one where windows slide along a series in small steps."""

_INVERSE = np.uint64(pow(int(MIXER), -1, 2**64))


@dataclass(frozen=True)
class Overlap:
    """How many validation windows share half of themselves or more with a training window, the two being shifted."""

    rows: Array
    """Validation rows looked up."""
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
    sums = _prefix(val[rows], steps)
    blocks = _blocks(sums, half)
    # Where a half also occurs elsewhere in its own window (constant, periodic) its position says nothing.
    telling = _once(blocks, blocks[:, 0]) & _once(blocks, blocks[:, -1])
    ordered = np.sort(_steps(val[rows], steps), axis=1)
    telling &= 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) >= half / 2
    wanted = {"head": blocks[:, 0], "tail": blocks[:, -1]}
    seen = {name: np.zeros(len(rows), bool) for name in wanted}
    partial = confirmed = 0
    pairs: list[tuple[int, int, int]] = []
    for start in range(0, len(train), max(1, BLOCKS // steps)):
        theirs = _prefix(train[start : start + max(1, BLOCKS // steps)], steps)
        there = _blocks(theirs, half)
        for name, digests in wanted.items():
            order = np.argsort(digests, kind="stable")
            hits = np.argwhere(np.isin(there, digests[telling]))
            place = np.searchsorted(digests[order], there[hits[:, 0], hits[:, 1]])
            query = order[np.minimum(place, len(order) - 1)] if len(order) else place
            shift = hits[:, 1] if name == "head" else steps - half - hits[:, 1]
            moved = (shift > 0) & telling[query] if len(query) else np.zeros(0, bool)
            hits, query, shift = hits[moved], query[moved], shift[moved]
            length = steps - shift
            if name == "head":
                same = _span(theirs, hits[:, 0], shift, length) == _span(sums, query, 0 * shift, length)
            else:
                same = _span(theirs, hits[:, 0], 0 * shift, length) == _span(sums, query, shift, length)
            longer = length > half
            partial, confirmed = partial + int(longer.sum()), confirmed + int((same & longer).sum())
            seen[name][query[same]] = True
            for t, q, by in zip(hits[same, 0][:20], query[same][:20], shift[same][:20], strict=True):
                pairs.append((start + int(t), int(rows[q]), int(by)))
    if confirmed < CONFIRMED * partial:
        return Overlap(rows, 0.0, 0.0, rows[:0], rows[:0], [])
    head, tail = seen["head"], seen["tail"]
    known = set(rows[tail].tolist())
    some = [pair for pair in pairs if pair[1] in known][:5]
    return Overlap(rows, float(head.mean()), float(tail.mean()), rows[head], rows[tail], some)


def _steps(windows: Array, steps: int) -> Array:
    """One uint64 code for each step of each window."""
    bits = windows.view(np.uint32 if windows.dtype == np.float32 else np.uint64)
    spread: Array = bits.reshape(len(windows), steps, -1).astype(np.uint64)
    spread += np.arange(1, spread.shape[2] + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    # The finaliser of MurmurHash3, so that sums of codes do not cancel.
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        spread ^= spread >> np.uint64(shift)
        spread *= np.uint64(factor)
    spread ^= spread >> np.uint64(33)
    return np.asarray(spread.sum(axis=2, dtype=np.uint64))


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


def _once(blocks: Array, digest: Array) -> Array:
    return np.asarray((blocks == digest[:, None]).sum(axis=1) == 1)
