"""What samples consist of: targets that are all alike, the label among the inputs, classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.data.scan import Scan, class_labels, input_paths, replaced, target_paths
from stabcheck.trial.data.unusable_batches import loss_of
from stabcheck.trial.losses import IGNORE_INDEX
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

Array = np.ndarray[Any, Any]

FEWEST = 50
"""Samples below which nothing is said about what they have in common."""


@dataclass(frozen=True)
class OneTarget:
    """A target that is the same whole number wherever it counts."""

    path: str
    value: int
    count: int
    ignored: float
    """Share of the targets that are -100, which a loss leaves out."""


def targets_alike(session: Session, scan: Scan, seed: int) -> OneTarget | None:
    """Whether all targets, those to be ignored aside, are one whole number, and the loss would be another for another
    one; None where there are no such targets for certain."""
    for path in target_paths(session.setup, scan.batches[0]):
        column = scan.column(path)
        if len(column) != len(scan.batches) or any(c.dtype.kind not in "iu" for c in column):
            continue
        counted = np.concatenate([c[c != IGNORE_INDEX].reshape(-1) for c in column])
        every = sum(c.size for c in column)
        kinds = np.unique(counted)
        if _kept(scan) >= FEWEST and len(kinds) == 1 and _matters(session, scan, path, int(kinds[0]), seed):
            return OneTarget(path, int(kinds[0]), len(counted), 1 - len(counted) / every)
    return None


def _kept(scan: Scan) -> int:
    return sum(map(batches.size, scan.batches))


def _matters(session: Session, scan: Scan, path: str, value: int, seed: int) -> bool:
    """Whether the loss changes when this target becomes another class."""
    other = value - 1 if value > 0 else value + 1
    batch = scan.batches[0]
    moved = replaced(batch, path, lambda t: torch.where(t == value, torch.full_like(t, other), t))
    try:
        return loss_of(session, scan.key, batch, seed) != loss_of(session, scan.key, moved, seed)
    except (UserCodeError, Skip):
        return False


# --- the label among the inputs


@dataclass(frozen=True)
class Copied:
    """A column of a table of inputs that is the target itself."""

    path: str
    column: int
    columns: int
    samples: int


def label_among_inputs(session: Session, scan: Scan) -> Copied | None:
    """A column that equals the target in every sample, up to scale and offset; only tables of fractions are looked at, and
    only columns that not another one equals in the same way."""
    if not scan.values or _kept(scan) < FEWEST:
        return None
    target = np.concatenate(scan.values[: len(scan.batches)])
    for path in input_paths(session.setup, scan.batches[0]):
        held = scan.table(path, "f")
        if held is None or len(held) != len(target) or not 2 <= held.shape[1] <= 2000 or target.std() == 0:
            continue
        rows = held.astype(np.float64)
        spread = rows.std(axis=0)
        spread = np.where(spread > 1e-9 * np.abs(rows).max(axis=0), spread, np.inf)
        likeness = ((rows - rows.mean(axis=0)) * (target - target.mean())[:, None]).mean(axis=0) / (
            spread * target.std()
        )
        same = np.flatnonzero(1 - np.abs(likeness) < 1e-6)
        if len(same):
            return Copied(path, int(same[0]), rows.shape[1], len(rows))
    return None


# --- classes


def counts(scan: Scan) -> dict[int, int]:
    """Samples of each class; empty without classes."""
    if not scan.labels:
        return {}
    kinds, found = np.unique(np.concatenate(scan.labels), return_counts=True)
    return dict(zip(kinds.tolist(), found.tolist(), strict=True))


def unseen(train: Scan, val: Scan) -> tuple[list[int], float]:
    """Classes of validation that a whole pass over training does not hold, and the share of validation samples in them."""
    known, other = counts(train), counts(val)
    if not train.whole or not known or not other or len(known) > sum(known.values()) / 10:
        return [], 0.0
    new = [k for k in other if k not in known]
    return new, sum(other[k] for k in new) / sum(other.values())


def labels_matter(session: Session, scan: Scan, seed: int) -> bool:
    """Whether the loss of a batch changes when its labels change places."""
    batch = scan.batches[0]
    if class_labels(session.setup, batch) is None:
        return False
    for path in (*target_paths(session.setup, batch), *_last_of(batch)):
        try:
            if loss_of(session, scan.key, batch, seed) != loss_of(
                session, scan.key, replaced(batch, path, lambda t: t.roll(1, 0)), seed
            ):
                return True
        except (UserCodeError, Skip):
            return False
    return False


def _last_of(batch: Any) -> list[str]:
    return [str(len(batch) - 1)] if isinstance(batch, (tuple, list)) and not isinstance(batch, Mapping) else []
