"""Whether labels have to do with inputs at all, and mean the same on both sides, by nearest neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.setup import TrainingSetup
from stabcheck.trial.data.scan import Scan, class_labels, input_paths
from stabcheck.trial.split.fields import leaves

Array = np.ndarray[Any, Any]

MOST, FEWEST = 1200, 60
"""Samples of each side that are compared, at most and at least."""
WIDTH = 512
"""Numbers of a sample that are compared; a random part of larger ones."""
NEIGHBOURS = 5
CLASSES = 100
"""Distinct labels from which on neighbours of the same one become too rare to be found."""


@dataclass(frozen=True)
class Relation:
    """How well labels are predicted, beyond chance."""

    hits: float
    by_chance: float
    count: int

    @property
    def kappa(self) -> float:
        """Agreement beyond chance as a share of what is possible (Cohen 1960)."""
        return (self.hits - self.by_chance) / max(1e-9, 1 - self.by_chance)

    @property
    def precision(self) -> float:
        """Standard errors of chance in a kappa of one."""
        return (1 - self.by_chance) / math.sqrt(max(self.by_chance * (1 - self.by_chance), 1e-6) / self.count)

    @property
    def sigmas(self) -> float:
        """Standard errors above chance."""
        return self.kappa * self.precision


@dataclass(frozen=True)
class Relations:
    """What the neighbours know: of training in training, of validation in validation, and of validation in training."""

    train: Relation
    val: Relation
    across: Relation
    renamed: Relation
    """Of validation in training, once each predicted class is given the name that half of validation has for it; judged
    on the other half."""
    names: dict[int, int]
    """Class in training -> class in validation, where they differ."""


def points(setup: TrainingSetup, scan: Scan) -> tuple[Array, Array] | None:
    """(n, d) inputs as numbers and (n,) labels of the kept batches; None where sizes differ or there are no classes."""
    rows, labels = [], []
    for batch in scan.batches:
        found = class_labels(setup, batch)
        held = leaves(batch)
        columns = [held[path] for path in input_paths(setup, batch)]
        if found is None:
            return None
        flat = [
            c.reshape(len(c), -1)
            for c in columns
            if isinstance(c, np.ndarray) and c.dtype.kind in "fbiu" and c.ndim and len(c) == len(found)
        ]
        if not flat:
            return None
        rows.append(np.concatenate(flat, axis=1))
        labels.append(found)
        if sum(map(len, labels)) >= 4 * MOST:
            break
    if len({row.shape[1] for row in rows}) != 1:
        return None
    every = np.concatenate(rows).astype(np.float64)
    return np.nan_to_num(every, nan=0.0, posinf=0.0, neginf=0.0), np.concatenate(labels)


def relations(setup: TrainingSetup, train: Scan, val: Scan, seed: int) -> Relations | None:
    """Compare the two sides; None without classes on both, or with too few samples."""
    train_side, val_side = points(setup, train), points(setup, val)
    if train_side is None or val_side is None or train_side[0].shape[1] != val_side[0].shape[1]:
        return None
    rng = np.random.default_rng(seed)
    (tx, ty), (vx, vy) = (_some(x, y, rng) for x, y in (train_side, val_side))
    kinds = len(np.unique(np.concatenate([ty, vy])))
    if min(len(ty), len(vy)) < FEWEST or not 2 <= kinds <= min(CLASSES, len(ty) / 5):
        return None
    width = rng.permutation(tx.shape[1])[:WIDTH]
    # Each side in its own units: how they are scaled is another question.
    tx, vx = _units(tx[:, width]), _units(vx[:, width])
    across = _vote(vx, tx, ty, own=False)
    names, judged = _renamed(across, vy)
    return Relations(
        _relation(_vote(tx, tx, ty, own=True), ty),
        _relation(_vote(vx, vx, vy, own=True), vy),
        _relation(across, vy),
        judged,
        {a: b for a, b in names.items() if a != b},
    )


def _units(rows: Array) -> Array:
    spread = rows.std(axis=0)
    return np.asarray((rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _some(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    pick = rng.permutation(len(y))[:MOST]
    return x[pick], y[pick]


def _vote(queries: Array, references: Array, labels: Array, *, own: bool) -> Array:
    distances = (references**2).sum(axis=1)[None] - 2 * queries @ references.T
    if own:
        np.fill_diagonal(distances, np.inf)
    k = min(NEIGHBOURS, len(references) - 1)
    nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
    kinds, coded = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(queries), len(kinds)))
    for column in range(k):
        votes[np.arange(len(queries)), coded[nearest[:, column]]] += 1
    return np.asarray(kinds[votes.argmax(axis=1)])


def _relation(predicted: Array, labels: Array) -> Relation:
    by_chance = sum(float((predicted == k).mean() * (labels == k).mean()) for k in np.unique(labels))
    return Relation(float((predicted == labels).mean()), by_chance, len(labels))


def _renamed(predicted: Array, labels: Array) -> tuple[dict[int, int], Relation]:
    half = np.arange(len(labels)) % 2 == 0
    names = {}
    for kind in np.unique(predicted[half]):
        kinds, counts = np.unique(labels[half][predicted[half] == kind], return_counts=True)
        names[int(kind)] = int(kinds[counts.argmax()])
    given = np.array([names.get(int(k), int(k)) for k in predicted[~half]])
    return names, _relation(given, labels[~half])
