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
UNLIKE = 0.1
"""Distance between two distributions (the greatest of their distribution functions, half the sum of class shares, the relative
one of their spreads) up to which inputs of two sides count as alike, and the same in standard errors where samples are few."""
UNLIKE_SIGMAS = 1.7
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
    back: Relation
    """Of training in validation."""
    alike: bool
    """Whether the inputs of both sides spread alike, and are to their neighbours as those of one side are among themselves, in
    distance and in the classes that these tell. Then labels that are made alike are told equally well; those of inputs
    that are augmented, or drawn in other shares, are not."""


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
    same_units = _spread_alike(tx[:, width], vx[:, width])
    # Each side in its own units: how they are scaled is another question.
    tx, vx = _units(tx[:, width]), _units(vx[:, width])
    across, back = _vote(vx, tx, ty, own=False), _vote(tx, vx, vy, own=False)
    train_own, val_own = _vote(tx, tx, ty, own=True), _vote(vx, vx, vy, own=True)
    names, judged = _renamed(across[0], vy)
    return Relations(
        _relation(train_own[0], ty),
        _relation(val_own[0], vy),
        _relation(across[0], vy),
        judged,
        {a: b for a, b in names.items() if a != b},
        _relation(back[0], ty),
        same_units and _alike(across, train_own) and _alike(back, val_own),
    )


def _units(rows: Array) -> Array:
    spread = rows.std(axis=0)
    return np.asarray((rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _spread_alike(one: Array, other: Array) -> bool:
    spreads = np.stack([one.std(axis=0), other.std(axis=0)])
    varying = spreads[:, (spreads > 0).all(axis=0)]
    return varying.size > 0 and abs(float(np.median(np.log(varying[0] / varying[1])))) <= UNLIKE


def _some(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    pick = rng.permutation(len(y))[:MOST]
    return x[pick], y[pick]


def _vote(queries: Array, references: Array, labels: Array, *, own: bool) -> tuple[Array, Array]:
    """What the neighbours of each query say, and how far the farthest of them is (squared)."""
    distances = (references**2).sum(axis=1)[None] - 2 * queries @ references.T + (queries**2).sum(axis=1)[:, None]
    if own:
        np.fill_diagonal(distances, np.inf)
    k = min(NEIGHBOURS, len(references) - 1)
    nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
    kinds, coded = np.unique(labels, return_inverse=True)
    votes = np.zeros((len(queries), len(kinds)))
    for column in range(k):
        votes[np.arange(len(queries)), coded[nearest[:, column]]] += 1
    return np.asarray(kinds[votes.argmax(axis=1)]), np.take_along_axis(distances, nearest, axis=1).max(axis=1)


def _alike(one: tuple[Array, Array], other: tuple[Array, Array]) -> bool:
    (said, far), (said_there, far_there) = one, other
    error = UNLIKE_SIGMAS * math.sqrt(1 / len(far) + 1 / len(far_there))
    every = np.sort(np.concatenate([far, far_there]))
    below = (np.searchsorted(np.sort(side), every, side="right") / len(side) for side in (far, far_there))
    apart = float(np.abs(np.subtract(*below)).max())
    kinds = np.unique(np.concatenate([said, said_there]))
    shares = [np.array([(side == kind).mean() for kind in kinds]) for side in (said, said_there)]
    # Of many classes the differences by chance add up.
    moved, by_chance = float(np.abs(shares[0] - shares[1]).sum()) / 2, error / 2 * math.sqrt(len(kinds)) / 2
    return apart <= max(UNLIKE, error) and moved <= max(UNLIKE, by_chance)


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
