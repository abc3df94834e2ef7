"""What samples consist of: inputs that are all alike, targets that are, the label among the inputs, classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.data.scan import Scan, class_labels, input_paths, replaced, scalar_targets, target_paths
from stabcheck.trial.data.unusable_batches import loss_of
from stabcheck.trial.losses import IGNORE_INDEX
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import leaves
from stabcheck.userland import UserCodeError

Array = np.ndarray[Any, Any]

FEWEST = 50
"""Samples below which nothing is said about what they have in common."""

ENDS = ("mask", "type", "length", "position", "index", "id")
"""Words in the names of leaves that may well be the same in every sample; "id" only as the whole word."""


# --- alike


@dataclass(frozen=True)
class Alike:
    """Inputs in which nothing differs from sample to sample, while the targets do."""

    paths: tuple[str, ...]
    value: float
    samples: int
    padding: float | None
    """The value beside it that only fills up sequences; None if there is none."""


def inputs_alike(session: Session, scan: Scan) -> Alike | None:
    """Whether every input leaf holds one value throughout, sequences filled up with another one, while targets differ."""
    first = scan.batches[0]
    paths = [p for p in input_paths(session.setup, first) if not _is_extra(p)]
    if not paths or _kept(scan) < FEWEST or not _targets_differ(session, scan):
        return None
    value, padding = math.nan, None
    for path in paths:
        column = scan.column(path)
        if len(column) != len(scan.batches) or any(c.dtype.kind not in "fiu" or c.ndim < 2 for c in column):
            return None
        found = _one_value(column)
        if found is None:
            return None
        value, padding = found
    return Alike(tuple(paths), value, _kept(scan), padding)


def _is_extra(path: str) -> bool:
    words = path.lower().replace(".", "_").split("_")
    return any(word in path.lower() for word in ENDS[:-1]) or (path.lower().endswith("_id") or words == ["id"])


def _kept(scan: Scan) -> int:
    return sum(map(batches.size, scan.batches))


def _targets_differ(session: Session, scan: Scan) -> bool:
    """Whether targets are known and differ from sample to sample."""
    seen: set[bytes] = set()
    for batch in scan.batches:
        held = leaves(batch)
        values = scalar_targets(session.setup, batch, held)
        if values is not None:
            seen |= {v.tobytes() for v in values}
        else:
            for path in target_paths(session.setup, batch, held):
                leaf = held[path]
                if isinstance(leaf, np.ndarray) and leaf.ndim:
                    seen |= {row.tobytes() for row in leaf}
        if len(seen) > 1:
            return True
    return False


def _one_value(column: list[Array]) -> tuple[float, float | None] | None:
    """(the value that fills every sample, the value that pads it); None if samples hold anything else."""
    kinds: set[float] = set()
    for leaf in column:
        kinds |= set(np.unique(leaf[:4096]).astype(float).tolist())
        if len(kinds) > 2:
            return None
    if len(kinds) == 1:
        return kinds.pop(), None
    if any(leaf.dtype.kind == "f" or leaf.ndim != 2 for leaf in column):
        return None
    for padding in kinds:
        (value,) = kinds - {padding}
        # Padding is a run at one end of each sequence, the same end throughout.
        changes = [(np.diff((leaf == padding).astype(np.int8), axis=1)) for leaf in column]
        right = all((c >= 0).all() and (leaf[:, 0] == value).all() for c, leaf in zip(changes, column, strict=True))
        left = all((c <= 0).all() and (leaf[:, -1] == value).all() for c, leaf in zip(changes, column, strict=True))
        # Several values of one kind: a yes-or-no sequence that happens to be ordered is no padding.
        if (right or left) and any(leaf.shape[1] >= 3 for leaf in column):
            return value, padding
    return None


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
        column = scan.column(path)
        if not column or any(c.ndim != 2 or c.dtype.kind != "f" or c.shape[1] != column[0].shape[1] for c in column):
            continue
        rows = np.concatenate(column).astype(np.float64)
        if len(rows) != len(target) or not 2 <= rows.shape[1] <= 2000 or target.std() == 0:
            continue
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
