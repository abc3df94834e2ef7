"""Near-copies: samples much nearer to one training sample than the data are dense.

Distances are judged by a ratio, distance to the nearest over distance to the tenth neighbour, which needs no unit.
In data of intrinsic dimension m that are locally even, a given ratio r or less has probability about 10 r^m
(neighbour counts grow as the m-th power of the distance: Levina & Bickel 2004; Facco et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from stabcheck.trial.duplicates import rate_p
from stabcheck.trial.table import Column

Array = np.ndarray[Any, Any]

NEAR, FAR = 10, 100
"""Neighbours: the tenth sets the local scale, so sets of up to nine copies are seen; the hundredth the dimension."""

WIDTH = 256
"""Dimensions after sketching: distances keep to within about 10 %, and ratios of them are what is judged."""

REFERENCES, QUERIES = 20_000, 4_000
"""Samples searched and samples looked up of each side: two seconds a view on one core."""

FEWEST = 40
"""Training samples below which a tenth neighbour is no neighbour."""


RATIOS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01)
"""Ratios at which near-copies are counted. Noise of 5 % of an image's range gives about 0.4, of 1 % about 0.1."""

FEW, MATERIAL = 3, 0.005
"""Near-copies, and their share of the samples looked up, below which nothing is said: real data hold as many."""

SURE, LIKELY = 1e-5, 0.01
"""Error rates: of comparing counts with those within training, for any of the views and ratios, and of the same for
samples that are nearer than even scatter would have it (PROOF)."""

PROOF = 1e-4
"""Chance of a ratio under even scatter from which on each sample counts by itself. None of digits, wine, breast cancer,
diabetes, iris, moons, blobs, sines and their random splits had one."""

FAILS = 0.05
"""Share beyond training's own that fails: near-copies are no proof each, a twentieth of the set is."""

EVERYWHERE, SCATTER = 0.5, 0.05
"""Share from which near-copies fail even where training is as full of them, and the most that even scatter may give
there: half of the score is then for samples with a sibling in training."""

HOW = {
    "values": "in value",
    "standardised": "in standard units",
    "normalised": "but for brightness and contrast",
    "mirrored": "after mirroring",
    "tokens": "in their runs of three tokens",
    "text": "in their runs of four letters",
}


@dataclass(frozen=True)
class Near:
    """What one view says about near-copies."""

    view: str
    how: str
    share: float
    within: float
    """The share of training samples with a near-copy in training."""
    verdict: Literal["warn", "fail"] | None
    rows: Array
    """Validation rows that have one, nearest first."""
    twins: Array
    """Their training rows."""
    distances: list[float]
    compared: int


@dataclass(frozen=True)
class Neighbours:
    """Nearest training samples in one view of the data; all arrays have one entry for each looked-up sample."""

    view: str
    rows: Array
    """Validation rows."""
    nearest: Array
    """Training row nearest to each."""
    distance: Array
    ratio: Array
    within: Array
    """The ratio for training samples among the other training samples."""
    dimension: float
    """Intrinsic dimension, the smaller of two estimates; NaN if there is none."""

    def chance(self, ratio: float) -> float:
        """Share of evenly scattered samples that have this ratio or less."""
        if not self.dimension > 0:
            return 1.0
        return min(1.0, NEAR * float(ratio**self.dimension))

    def judged(self) -> Near:
        """Count near-copies at the ratio where they stand out most from those within training."""
        best: tuple[float, float, Literal["warn", "fail"] | None] = (0.0, RATIOS[-1], None)
        for limit in RATIOS:
            found, own = int((self.ratio <= limit).sum()), int((self.within <= limit).sum())
            share, within = found / len(self.ratio), own / len(self.within)
            p = rate_p(found, len(self.ratio), own, len(self.within))
            verdict: Literal["warn", "fail"] | None = None
            if share >= EVERYWHERE and self.chance(limit) <= SCATTER:
                verdict = "fail"
            elif found >= FEW and share - within >= max(MATERIAL, within / 3, self.chance(limit)) and p <= SURE:
                verdict = "fail" if share - within >= FAILS else "warn"
            elif found >= 2 and share >= MATERIAL and self.chance(limit) <= PROOF and p <= LIKELY:
                verdict = "warn"
            best = max(best, (share - within, limit, verdict), key=lambda b: (b[2] == "fail", b[2] is not None, b[0]))
        limit = best[1]
        hits = np.flatnonzero(self.ratio <= limit)
        hits = hits[np.argsort(self.ratio[hits], kind="stable")]
        return Near(
            view=self.view,
            how=f"{HOW[self.view]}, within {limit:g} of the distance to the tenth neighbour",
            share=len(hits) / len(self.ratio),
            within=float((self.within <= limit).mean()),
            verdict=best[2],
            rows=self.rows[hits],
            twins=self.nearest[hits],
            distances=[float(d) for d in self.distance[hits][:5]],
            compared=len(self.ratio),
        )


def neighbours(
    train: Column, val: Column, train_rows: Array, val_rows: Array, *, seed: int = 0
) -> Iterator[Neighbours]:
    """Search each view of the data: as it is, by feature in standard units, without brightness and contrast, mirrored.

    `train_rows` and `val_rows` select from the columns; they hold no content twice, and none that both sides have.
    """
    rng = np.random.default_rng(seed)
    train_rows = np.sort(rng.permutation(train_rows)[:REFERENCES])
    val_rows = np.sort(rng.permutation(val_rows)[:QUERIES])
    if len(train_rows) < FEWEST or not len(val_rows):
        return
    base = np.sort(rng.permutation(len(train_rows))[:QUERIES])
    for name, references, queries, mirrored in _views(_taken(train, train_rows), _taken(val, val_rows), train.shape):
        found, place = _search(references, queries, None)
        own, _ = _search(references, (references if mirrored is None else mirrored)[base], base)
        yield Neighbours(
            view=name,
            rows=val_rows,
            nearest=train_rows[place],
            distance=found[:, 0],
            ratio=_ratio(found),
            within=_ratio(own),
            dimension=_dimension(own),
        )


def _taken(column: Column, rows: Array) -> Array | list[Any]:
    return column.rows[rows] if isinstance(column.rows, np.ndarray) else [column.rows[row] for row in rows]


def _views(
    train: Array | list[Any], val: Array | list[Any], shape: tuple[int, ...]
) -> Iterator[tuple[str, Array, Array, Array | None]]:
    """(name, references, queries, mirrored references or None)."""
    if not (isinstance(train, np.ndarray) and isinstance(val, np.ndarray)):
        if comparable(train) and comparable(val):
            yield "text", _bags(list(train)), _bags(list(val)), None
        return
    if train.shape[1] != val.shape[1]:
        return
    if train.dtype.kind == "i" and len(shape) == 1 and train.shape[1] >= 16:
        yield "tokens", _bags(list(train)), _bags(list(val)), None
        return
    train, val = _finite(train), _finite(val)
    yield "values", _sketch(train), _sketch(val), None
    deviation = train.std(axis=0)
    varying = deviation[deviation > 0]
    if len(varying) > 1:
        # A column that hardly ever varies must not outweigh the others.
        unit = np.maximum(deviation, 0.1 * np.median(varying))
        yield "standardised", _sketch(train / unit), _sketch(val / unit), None
    if train.shape[1] >= 16:
        yield "normalised", _sketch(_unit_rows(train)), _sketch(_unit_rows(val)), None
    axis = _width_axis(shape)
    if axis is not None:
        yield "mirrored", _sketch(train), _sketch(_mirrored(val, shape, axis)), _sketch(_mirrored(train, shape, axis))


def comparable(rows: Array | Sequence[Any]) -> bool:
    """Whether a list holds texts or sequences of whole numbers, which have a bag of n-grams."""
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
    """At most WIDTH columns with nearly the same distances: columns are added up with random signs (count sketch)."""
    count = rows.shape[1]
    if count <= WIDTH:
        return np.ascontiguousarray(rows, dtype=np.float32)
    rng = np.random.default_rng(1)
    order = rng.permutation(count)
    signs = rng.choice(np.array([-1, 1], np.float32), count)
    starts = np.linspace(0, count, WIDTH, endpoint=False).astype(int)
    return np.concatenate(
        [
            np.add.reduceat((block * signs)[:, order], starts, axis=1)
            for block in np.array_split(rows, max(1, rows.size // 2**24))
        ]
    ).astype(np.float32)


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


def _search(references: Array, queries: Array, own: Array | None) -> tuple[Array, Array]:
    """Distances to the FAR nearest references in ascending order, (q, k), and the place of the nearest, (q,).

    `own[i]`: the reference that is the same sample as query i, which is left out.
    """
    table = torch.from_numpy(references)
    squares = (table * table).sum(1)
    count = min(FAR, len(references) - 1)
    distances, places = [], []
    for start in range(0, len(queries), 512):
        query = torch.from_numpy(queries[start : start + 512])
        gap = torch.addmm(squares, query, table.T, alpha=-2)
        if own is not None:
            gap[torch.arange(len(query)), torch.from_numpy(own[start : start + 512])] = math.inf
        near = gap.topk(count, largest=False).indices
        # The expansion of the square loses small distances to rounding: take them again, directly.
        exact = (table[near] - query[:, None]).norm(dim=2)
        ordered, order = exact.sort(dim=1)
        distances.append(ordered.numpy())
        places.append(near.gather(1, order[:, :1]).squeeze(1).numpy())
    return np.concatenate(distances), np.concatenate(places)


def _ratio(distances: Array) -> Array:
    scale = distances[:, NEAR - 1]
    return np.where(scale > 0, distances[:, 0] / np.where(scale > 0, scale, 1), 1.0)


def _dimension(distances: Array) -> float:
    """Intrinsic dimension from the mean growth of distance between two ranks, E[ln(r_b / r_a)] = (H_{b-1} - H_{a-1}) / m.

    The smaller of the estimates near by and farther out: a lattice looks high-dimensional near by, clusters farther out.
    """
    last = distances.shape[1]
    found = []
    for a, b in ((NEAR // 2, NEAR), (NEAR, last)):
        low, high = distances[:, a - 1], distances[:, b - 1]
        growth = np.log(high[low > 0] / low[low > 0])
        if len(growth) and growth.mean() > 0:
            found.append(sum(1 / i for i in range(a, b)) / float(growth.mean()))
    return min(found) if found else math.nan
