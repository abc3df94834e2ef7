"""Whether reading a sample again gives the same, and what a dataset keeps underneath where it does not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.trial.rng import kept_rng
from stabcheck.trial.split.fields import Leaf, leaves
from stabcheck.trial.split.samples import Part, Source, parts, stored
from stabcheck.userland import UserCodeError, userland

Array = np.ndarray[Any, Any]

PROBES, REPEATED = 48, 24
"""Samples looked at before the reading proper, and how many of them are read twice."""

FEWEST = 8
"""Draws below which nothing can be recognised."""

RECOGNISED, ALIKE = 0.25, 0.4
"""Shares of the draws that must be nearest to their own stored row (one in 48 is by chance, half after a random flip), and
to their own other draw (one in 24 by chance, one in three if made up anew around eight classes)."""


@dataclass(frozen=True)
class Probe:
    """Some samples of one side, a few of them read twice under different seeds."""

    samples: list[Any]
    again: list[Any]
    """Second draws of the first samples; empty where samples can only be read in passing."""
    at: list[int]
    """Positions of the samples among those that the loader draws."""
    each: float = 0.0
    """Seconds that reading one sample took."""

    @property
    def unstable(self) -> frozenset[str]:
        """Paths of the leaves that change from draw to draw."""
        changed = set()
        for first, second in zip(self.samples, self.again, strict=False):
            one, two = leaves(first), leaves(second)
            changed |= {path for path in one if path not in two or not same_leaf(one[path], two[path])}
        return frozenset(changed)


def probe(source: Source, seconds: float, seed: int) -> Probe:
    """Look at a few samples, all over the data, for at most about `seconds`.

    Raises:
        UserCodeError: the dataset or the loader raised.
    """
    if source.style != "items":
        with kept_rng(seed):
            found = []
            for sample in source.samples():
                found.append(sample)
                if len(found) == PROBES:
                    break
        return Probe(found, [], list(range(len(found))))
    count = len(source.indices)
    at = np.random.default_rng(seed).permutation(count)[:PROBES].tolist()
    started = time.monotonic()
    samples: list[Any] = []
    with kept_rng(seed):
        for position in at:
            samples.append(source.read(source.indices[position]))
            if time.monotonic() - started > seconds:
                break
    each = (time.monotonic() - started) / len(samples)
    twice = min(REPEATED, len(samples), max(2, int(seconds / max(each, 1e-9))))
    with kept_rng(seed + 1):
        again = [source.read(source.indices[position]) for position in at[:twice]]
    return Probe(samples, again, at[: len(samples)], each)


def same_leaf(one: Leaf, two: Leaf) -> bool:
    """Whether two leaves hold the same, NaN being equal to NaN."""
    if isinstance(one, str) or isinstance(two, str):
        return isinstance(one, str) and isinstance(two, str) and one == two
    return one.shape == two.shape and bool(np.array_equal(one, two, equal_nan=one.dtype.kind in "fc"))


def is_one_sample(found: Probe) -> bool:
    """Whether two draws of one index are the same sample, differently augmented, and not two samples made up anew."""
    unstable = found.unstable
    if not unstable:
        return True
    first, second = [leaves(s) for s in found.samples[: len(found.again)]], [leaves(s) for s in found.again]
    path = max(unstable, key=lambda p: np.size(first[0].get(p, 0)))
    one, two = _matrix([row.get(path) for row in first]), _matrix([row.get(path) for row in second])
    if one is None or two is None or one.shape != two.shape or len(one) < FEWEST:
        return True  # drawn with other sizes, as random crops are: nothing says that they are unrelated
    return _own_share(two, one) >= ALIKE


def underlying(source: Source, found: Probe) -> Source | None:
    """The samples as the datasets behind the loader keep them, before augmentation; None if they cannot be told.

    What an object keeps is taken for its samples only where it is a file name, or where the draws are recognised in it:
    a dataset that keeps long series and draws windows from them keeps no samples. A sample is {"kept": leaf}.
    """
    below = parts(source)
    if not below or sum(len(part.indices) for part in below) != len(source.indices):
        return None
    held = [stored(part.dataset) for part in below]
    for name in sorted(set.intersection(*(set(h) for h in held))):
        rows = _Kept([Part(h[name], part.indices) for h, part in zip(held, below, strict=True)])
        try:
            with userland(name):
                kept = [leaves(rows.row(position)) for position in found.at]
        except UserCodeError:
            continue  # it is not indexed by sample
        path = _recognised(found, kept) if kept else None
        if path is not None:
            rows.path = path
            return Source(source.key, source.loader, "items", rows, np.arange(len(rows)), source)
    return None


class _Kept:
    """One leaf of stored rows, in the order in which the loader's indices name them."""

    def __init__(self, below: Sequence[Part]) -> None:
        self.below = below
        self.ends = np.cumsum([len(part.indices) for part in below])
        self.path = ""

    def __len__(self) -> int:
        return int(self.ends[-1])

    def row(self, position: int) -> Any:
        k = int(np.searchsorted(self.ends, position, side="right"))
        part = self.below[k]
        return part.dataset[int(part.indices[position - (self.ends[k - 1] if k else 0)])]

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {"kept": leaves(self.row(position)).get(self.path, "")}


def _recognised(found: Probe, kept: Sequence[dict[str, Leaf]]) -> str | None:
    """The path of the leaf of the stored rows in which the draws are recognised, or which is a file name."""
    draws = [leaves(sample) for sample in found.samples]
    for name, leaf in kept[0].items():
        if isinstance(leaf, str):
            if ("/" in leaf or "." in leaf) and not any(c.isspace() for c in leaf):
                return name
            continue
        mine = _matrix([row.get(name) for row in kept])
        for path, drawn in draws[0].items():
            if mine is None or not isinstance(drawn, np.ndarray) or not drawn.size == leaf.size > 1:
                continue
            theirs = _matrix([row.get(path) for row in draws])
            if theirs is None or theirs.shape != mine.shape or len(mine) < FEWEST:
                continue
            if any(_own_share(theirs, mine[:, order]) >= RECOGNISED for order in _orders(leaf)):
                return name
    return None


def _orders(leaf: Array) -> list[Array]:
    """The flat order of a leaf as it is, and with a last axis of colours moved to the front."""
    flat = np.arange(leaf.size)
    if leaf.ndim == 3:
        return [flat, flat.reshape(leaf.shape).transpose(2, 0, 1).reshape(-1)]
    return [flat]


def _own_share(draws: Array, kept: Array) -> float:
    """Share of the draws whose most similar row, brightness and contrast aside, is their own."""
    one, two = (rows - rows.mean(axis=1, keepdims=True) for rows in (draws, kept))
    length = np.linalg.norm(two, axis=1)
    likeness = one @ two.T / np.where(length > 0, length, 1)
    return float((likeness.argmax(axis=1) == np.arange(len(kept))).mean())


def _matrix(values: Sequence[Leaf | None]) -> Array | None:
    """(n, d) float64 of leaves of one size; None if there are others among them."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if len(arrays) != len(values) or len({array.size for array in arrays}) != 1:
        return None
    return np.stack([array.reshape(-1).astype(np.float64) for array in arrays])
