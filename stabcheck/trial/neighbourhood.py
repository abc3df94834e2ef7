"""How well the nearest training samples say the targets of validation, which any model could ask for."""

from __future__ import annotations

from typing import Any

import numpy as np

from stabcheck.trial import batches
from stabcheck.trial.data.scan import class_labels, input_paths, scalar_targets, target_paths
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import leaves
from stabcheck.userland import UserCodeError

Array = np.ndarray[Any, Any]

MOST, FEWEST = 2000, 50
"""Samples of a side that are read at most, and at least."""
WIDEST = 512
"""Numbers of an input that are compared: a random part of larger ones."""
TARGETS = 64
"""Numbers of a target, or classes, up to which it is looked at."""
NEIGHBOURS = 5


def known_by_neighbours(session: Session, seed: int) -> float | None:
    """Share of the variance of the validation targets (of the classes, one-hot) that the mean of the nearest training samples'
    targets tells, all inputs in the units of training; None where inputs are no numbers of one form, or targets unknown."""
    try:
        train, val = (_read(session, key, seed) for key in ("train_loader", "val_loader"))
    except UserCodeError:
        return None
    if train is None or val is None or train[0].shape[1] != val[0].shape[1] or train[1].shape[1] != val[1].shape[1]:
        return None
    (x, y, _), (vx, vy, _) = train, val
    if train[2]:
        kinds = np.unique(np.concatenate([y, vy]))
        if not 2 <= len(kinds) <= TARGETS:
            return None
        y, vy = (np.asarray(side == kinds[None], float) for side in (y, vy))
    part = np.random.default_rng(seed).permutation(x.shape[1])[:WIDEST]
    mean, spread = x[:, part].mean(axis=0), x[:, part].std(axis=0)
    unit = np.where(spread > 0, spread, 1.0)
    x, vx = (x[:, part] - mean) / unit, (vx[:, part] - mean) / unit
    distances = (x**2).sum(axis=1)[None] - 2 * vx @ x.T
    near = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    total = float(((vy - y.mean(axis=0)) ** 2).sum())
    return 1 - float(((vy - y[near].mean(axis=1)) ** 2).sum()) / total if total > 0 else None


def _read(session: Session, key: str, seed: int) -> tuple[Array, Array, bool] | None:
    """(n, d) inputs, (n, k) targets of the first samples of a pass, and whether they are classes (k = 1)."""
    inputs: list[Array] = []
    targets: list[Array] = []
    kinds: set[bool] = set()
    with kept_rng(seed):
        for batch in session.epoch(key):
            held, count = leaves(batch), batches.size(batch)
            columns = [held[path] for path in input_paths(session.setup, batch)]
            if not all(
                isinstance(c, np.ndarray) and c.dtype.kind in "fbiu" and c.shape[:1] == (count,) for c in columns
            ):
                return None
            classes = class_labels(session.setup, batch, held)
            wanted = classes if classes is not None else _numbers(session, batch, held, count)
            if wanted is None or not columns:
                return None
            kinds.add(classes is not None)
            inputs.append(np.concatenate([np.asarray(c, float).reshape(count, -1) for c in columns], axis=1))
            targets.append(np.asarray(wanted, float).reshape(count, -1))
            if sum(map(len, targets)) >= MOST:
                break
    if len(kinds) != 1 or len({t.shape[1] for t in targets} | {-i.shape[1] for i in inputs}) != 2:
        return None
    x, y = np.concatenate(inputs), np.concatenate(targets)
    usable = len(x) >= FEWEST and np.isfinite(x).all() and np.isfinite(y).all()
    return (x, y, kinds.pop()) if usable else None


def _numbers(session: Session, batch: Any, held: dict[str, Any], count: int) -> Array | None:
    """Targets that are measurements, a few for each sample."""
    values = scalar_targets(session.setup, batch, held)
    if values is not None:
        return values
    for path in target_paths(session.setup, batch, held):
        leaf = held[path]
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" and leaf.shape[:1] == (count,):
            return leaf if leaf.size <= TARGETS * count else None
    return None
