"""Batches in which a collate function puts parts of different samples beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, default_collate

from stabcheck.trial.rng import kept_rng, seed_all
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import Leaf, leaves
from stabcheck.trial.split.samples import Source, behind
from stabcheck.userland import UserCodeError, userland

TRIES, TIMES = 3, 3
"""Batches of samples drawn anew, and how often each is put together with other random numbers. A part counts only if its rows are
those of the samples every time: labels that are drawn anew now and then are not."""
FEWEST = 3
"""Torn rows of a batch, if it has as many."""
MOST = 32
"""Samples of each."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Torn:
    """Two parts of a batch whose rows come from different samples."""

    one: str
    """Path of the part that tells its samples best."""
    other: str
    rows: int
    """Rows in which the two are of different samples."""
    of: int
    function: Any


def torn_pairs(session: Session, seed: int) -> Torn | None:
    """Put some samples together, all at once and each alone, with the loader's own collate function: what stands in one row of
    the batch must come from one sample. None if it does, or if that cannot be told, as where rows are drawn at random.

    Raises:
        UserCodeError: the dataset raised.
    """
    loader = session.setup.train_loader
    collate = getattr(loader, "collate_fn", None)
    if not isinstance(loader, DataLoader) or collate is None or collate is default_collate or not loader.batch_size:
        return None
    with kept_rng(seed):
        source = behind(loader, "train_loader")
        if source.style != "items" or loader.batch_size < 2:
            return None
        looked = [_look(source, collate, min(MOST, loader.batch_size), seed + i) for i in range(TRIES)]
    known = [paths for one in looked if one is not None for paths in one.origins]
    whole = set.intersection(*map(set, known)) if known else set()
    torn = [_apart(one, origins, whole, collate) for one in looked if one is not None for origins in one.origins]
    worst = max((t for t in torn if t is not None), key=lambda t: t.rows, default=None)
    return worst if worst is not None and worst.rows >= min(FEWEST, worst.of) else None


@dataclass(frozen=True)
class _Look:
    """What each sample gives alone, and for each time that all were put together which rows are of which of them."""

    alone: dict[str, list[Leaf]]
    origins: list[dict[str, Array]]


def _look(source: Source, collate: Any, count: int, seed: int) -> _Look | None:
    drawn = np.random.default_rng(seed).permutation(len(source.indices))[:count]
    items = [source.read(source.indices[i]) for i in drawn.tolist()]

    def put_together(part: list[Any], seed: int) -> dict[str, Leaf]:
        seed_all(seed)
        with userland("collate_fn"):
            return leaves(collate(list(part)))

    try:
        batches = [put_together(items, seed + i) for i in range(TIMES)]
        alone = [put_together([item], seed) for item in items]
    except UserCodeError:  # it takes no single samples
        return None
    singles = {path: [one[path] for one in alone] for path in batches[0] if all(path in one for one in alone)}
    found = [
        {
            path: told
            for path, one in singles.items()
            if (told := _origins(batch.get(path), one, len(items))) is not None
        }
        for batch in batches
    ]
    return _Look(singles, found)


def _origins(leaf: Leaf | None, singles: list[Leaf], count: int) -> Array | None:
    """(rows, samples): whether a row of the batch is what a sample gives alone, but for padding at its end; None unless
    the rows are those of the samples in some order."""
    if not isinstance(leaf, np.ndarray) or not leaf.ndim or len(leaf) != count:
        return None
    found = np.zeros((count, count), bool)
    for j, single in enumerate(singles):
        if not isinstance(single, np.ndarray) or single.ndim != leaf.ndim or len(single) != 1:
            return None
        found[:, j] = _begins(leaf, single[0])
    kinds, times = np.unique(found, axis=0, return_counts=True)
    return found if (kinds.sum(axis=1) == times).all() else None


def _begins(rows: Array, one: Array) -> Array:
    """Which rows hold `one`, and beyond it one number throughout."""
    if one.ndim and any(size > there for size, there in zip(one.shape, rows.shape[1:], strict=True)):
        return np.zeros(len(rows), bool)
    if one.shape == rows.shape[1:]:
        return np.asarray((rows == one).reshape(len(rows), -1).all(axis=1))
    inside = (slice(None), *(slice(0, size) for size in one.shape))
    same = (rows[inside] == one).reshape(len(rows), -1).all(axis=1)
    beyond = np.ones(rows.shape[1:], bool)
    beyond[inside[1:]] = False
    rest = rows[:, beyond]
    return np.asarray(same & (rest == rest[:, :1]).all(axis=1))


def _apart(look: _Look, origins: dict[str, Array], whole: set[str], collate: Any) -> Torn | None:
    """The two parts with the most rows of different samples, among those that are `whole` each time."""
    paths = sorted(whole, key=lambda path: int(origins[path].sum()))
    worst: Torn | None = None
    for i, one in enumerate(paths):
        for other in paths[i + 1 :]:
            rows = int((~(origins[one] & origins[other]).any(axis=1)).sum())
            # A part that is there twice, once in its place and once elsewhere, gives examples of what does not match.
            twice = any(
                _same(look.alone[path], look.alone[p]) for path in (one, other) for p in look.alone if p != path
            )
            if rows and not twice and (worst is None or rows > worst.rows):
                worst = Torn(one, other, rows, len(origins[one]), collate)
    return worst


def _same(one: list[Leaf], other: list[Leaf]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
