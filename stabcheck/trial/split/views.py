"""Ways to look at samples as points, so that versions of one sample come to lie close together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.trial.split.table import Column

Array = np.ndarray[Any, Any]

WIDTH = 256
"""Dimensions after sketching: distances keep to within about 10 %, and ratios of them are what is judged."""

LONG = 16
"""Elements from which on a row is taken for a signal, an image or a sequence of tokens, and not for a row of a table."""


OUTLYING = 4.0
"""Standard units at which values are cut off, so that a column that hardly ever varies does not outweigh the others."""


@dataclass(frozen=True)
class View:
    """Both sides as points, float32, (n, d)."""

    name: str
    references: Array
    """Training samples."""
    queries: Array
    """Validation samples."""
    turned: Array
    """Training samples as the queries were treated: mirrored where those are."""


def views(train: Column, val: Column, train_rows: Array, val_rows: Array) -> Iterator[View]:
    """The selected rows as they are, by column in standard units, without brightness and contrast, inverted, mirrored; texts and
    tokens by the runs they consist of. None for sequences of fractions that differ in length."""
    one, two = _taken(train, train_rows), _taken(val, val_rows)
    if not (isinstance(one, np.ndarray) and isinstance(two, np.ndarray)):
        if _countable(one) and _countable(two):
            bags = _bags(list(one))
            yield View("text", bags, _bags(list(two)), bags)
        return
    if one.shape[1] != two.shape[1]:
        return
    if one.dtype.kind == "i" and len(train.shape) == 1 and one.shape[1] >= LONG:
        bags = _bags(list(one))
        yield View("tokens", bags, _bags(list(two)), bags)
        return
    one, two = _finite(one), _finite(two)
    plain = _sketch(one)
    yield View("values", plain, _sketch(two), plain)
    deviation = one.std(axis=0)
    varying = deviation[deviation > 0]
    if len(varying) > 1:
        unit, centre = np.where(deviation > 0, deviation, np.median(varying)), one.mean(axis=0)
        scaled, also = (_sketch(np.clip((rows - centre) / unit, -OUTLYING, OUTLYING)) for rows in (one, two))
        yield View("standardised", scaled, also, scaled)
    if one.shape[1] >= LONG:
        even = _sketch(_unit_rows(one))
        other = _sketch(_unit_rows(two))
        yield View("normalised", even, other, even)
        yield View("inverted", even, -other, -even)
    axis = _width_axis(train.shape) if train.shape == val.shape else None
    if axis is not None:
        mirrored = (_sketch(_mirrored(rows, train.shape, axis)) for rows in (two, one))
        yield View("mirrored", plain, *mirrored)


def _taken(column: Column, rows: Array) -> Array | list[Any]:
    return column.rows[rows] if isinstance(column.rows, np.ndarray) else [column.rows[row] for row in rows]


def _countable(rows: Array | list[Any]) -> bool:
    """Whether a list holds texts or sequences of whole numbers."""
    return len(rows) > 0 and all(isinstance(row, str) or row.dtype.kind == "i" for row in rows)


def _width_axis(shape: tuple[int, ...]) -> int | None:
    """The axis along which images of this shape are mirrored; None if it is no image."""
    if len(shape) == 2 and min(shape) >= 8:
        return 2
    if len(shape) == 3 and shape[0] in {1, 3, 4} and min(shape[1:]) >= 8:
        return 3
    if len(shape) == 3 and shape[2] in {1, 3, 4} and min(shape[:2]) >= 8:
        return 2
    return None


def _mirrored(rows: Array, shape: tuple[int, ...], axis: int) -> Array:
    return np.asarray(np.flip(rows.reshape(-1, *shape), axis).reshape(rows.shape))


def _finite(rows: Array) -> Array:
    return np.nan_to_num(rows.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _unit_rows(rows: Array) -> Array:
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(length > 0, length, 1))


def _sketch(rows: Array) -> Array:
    """At most WIDTH columns with nearly the same distances: every WIDTH-th column is added up with random signs."""
    count = rows.shape[1]
    if count <= WIDTH:
        return np.ascontiguousarray(rows, dtype=np.float32)
    signs = np.random.default_rng(1).choice(np.array([-1, 1], np.float32), count)
    sketch = np.zeros((len(rows), WIDTH), np.float32)
    for start in range(0, count, WIDTH):
        part = rows[:, start : start + WIDTH]
        sketch[:, : part.shape[1]] += part * signs[start : start + WIDTH]
    return sketch


def _bags(rows: Sequence[Any]) -> Array:
    """Unit vectors that count hashed n-grams: 4 characters of a text without case, or 3 tokens."""
    bags = np.zeros((len(rows), WIDTH), np.float32)
    for i, row in enumerate(rows):
        if isinstance(row, str):
            folded = " ".join(row.casefold().split())
            codes, length = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64), 4
        else:
            codes, length = row.astype(np.uint64), 3
        grams = np.zeros(max(0, len(codes) - length + 1), np.uint64)
        for k in range(length):
            grams = (grams + codes[k : k + len(grams)] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            grams ^= grams >> np.uint64(29)
        sign = np.where(grams & np.uint64(1 << 20), 1.0, -1.0)
        bags[i] = np.bincount((grams % np.uint64(WIDTH)).astype(int), sign, WIDTH)
    length_of = np.linalg.norm(bags, axis=1, keepdims=True)
    return np.asarray(bags / np.where(length_of > 0, length_of, 1))
