"""Near-copies: samples much nearer to one training sample than the data are dense.

Distances are judged by a ratio, distance to the nearest over distance to the tenth neighbour, which needs no unit.
In data of intrinsic dimension m that are locally even, a given ratio r or less has probability about 10 r^m
(neighbour counts grow as the m-th power of the distance: Levina & Bickel 2004; Facco et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stabcheck.trial.split.multiplicity import made_p
from stabcheck.trial.split.table import Column
from stabcheck.trial.split.views import WIDTH, views

Array = np.ndarray[Any, Any]

NEAR, FAR = 10, 100
"""Neighbours: the tenth sets the local scale, so sets of up to nine copies are seen; the hundredth the dimension."""

REFERENCES, QUERIES, ELEMENTS = 20_000, 4_000, 2**24
"""Samples searched and looked up, and numbers in them, at most: two seconds a view on one core."""

FEWEST = 40
"""Training samples below which a tenth neighbour is no neighbour."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest training samples in one view of the data; all arrays have one entry for each looked-up sample."""

    view: str
    searched: int
    """Training samples among which was searched."""
    rows: Array
    """Validation rows."""
    nearest: Array
    """Training row nearest to each."""
    distance: Array
    ratio: Array
    within: Array
    """The ratio for training samples among the other training samples."""
    around: Array
    """(n, 10) distances from these to their nearest ones, by that to the tenth."""
    dimensions: tuple[float, float]
    """Intrinsic dimension between the fifth and the tenth neighbour, and between the tenth and the hundredth."""

    def chance(self, ratio: float, *, apart: bool = False) -> float:
        """Share of evenly scattered samples that have this ratio or less, by the smaller dimension.

        A lattice looks high-dimensional near by and clusters look so farther out, hence the smaller. `apart`: the data
        are known not to consist of clusters of a few samples, and the near one, which copies disturb, is left out.
        """
        dimension = self.dimensions[1] if apart else min(self.dimensions)
        return min(1.0, NEAR * float(ratio**dimension))

    def made_p(self, ratio: float) -> float:
        """Chance of so many training samples with just so many near-copies in training at this ratio."""
        return made_p((self.around <= ratio).sum(axis=1), NEAR - 1)


def neighbours(
    train: Column, val: Column, train_rows: Array, val_rows: Array, *, seed: int = 0
) -> Iterator[Neighbours]:
    """Search every view of the data.

    `train_rows` and `val_rows` select from the columns; they hold no content twice, and none that both sides have.
    """
    rng = np.random.default_rng(seed)
    width = train.rows.shape[1] if isinstance(train.rows, np.ndarray) else WIDTH
    train_rows = np.sort(rng.permutation(train_rows)[: min(REFERENCES, ELEMENTS // max(1, width))])
    val_rows = np.sort(rng.permutation(val_rows)[:QUERIES])
    if len(train_rows) < FEWEST or not len(val_rows):
        return
    base = np.sort(rng.permutation(len(train_rows))[:QUERIES])
    for view in views(train, val, train_rows, val_rows):
        found, place = _search(view.references, view.queries, None)
        own, _ = _search(view.references, view.turned[base], base)
        yield Neighbours(
            view=view.name,
            searched=len(train_rows),
            rows=val_rows,
            nearest=train_rows[place],
            distance=found[:, 0],
            ratio=_ratio(found),
            within=_ratio(own),
            around=_around(own),
            dimensions=(_dimension(own, NEAR // 2, NEAR), _dimension(own, NEAR, own.shape[1])),
        )


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


def _around(distances: Array) -> Array:
    scale = distances[:, NEAR - 1 : NEAR]
    return np.where(scale > 0, distances[:, :NEAR] / np.where(scale > 0, scale, 1), 1.0)


def _ratio(distances: Array) -> Array:
    return np.asarray(_around(distances)[:, 0])


def _dimension(distances: Array, a: int, b: int) -> float:
    """Intrinsic dimension m from the mean growth of the distance between two ranks, for which
    E[ln(r_b / r_a)] = (1/a + ... + 1/(b - 1)) / m; 0 where nothing can be estimated."""
    low, high = distances[:, a - 1], distances[:, b - 1]
    growth = np.log(high[low > 0] / low[low > 0])
    if not len(growth) or not growth.mean() > 0:
        return 0.0
    return sum(1 / i for i in range(a, b)) / float(growth.mean())
