"""One pass over a loader, as training sees it: what it holds, and the batches that a rule may want to look at again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stabcheck.setup import TrainingSetup
from stabcheck.trial import batches
from stabcheck.trial.pace import Pace
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import TARGET_NAMES, leaves

Array = np.ndarray[Any, Any]

KEPT_BYTES = 64 * 2**20
"""Batches kept for a second look; a scan goes on beyond it, and only counts."""


@dataclass
class Extreme:
    """The batch with the largest or the smallest whole number of one leaf."""

    value: int
    at: int
    batch: Any


@dataclass
class Scan:
    """What one pass over a loader showed."""

    key: str
    batches: list[Any] = field(default_factory=list)
    """The first batches of the pass, in order."""
    sizes: list[int] = field(default_factory=list)
    """Samples in each batch of the pass."""
    whole: bool = False
    """Whether the pass came to its end."""
    broken: list[tuple[int, str, int, Any]] = field(default_factory=list)
    """(number of the batch, path, samples in it, the batch) of the first few leaves with NaN or infinite values."""
    bad: dict[str, int] = field(default_factory=dict)
    """Path -> samples with NaN or infinite values."""
    extremes: dict[tuple[str, str], Extreme] = field(default_factory=dict)
    """(path of whole numbers, "largest" or "smallest") -> where it is."""
    last: Any = None
    labels: list[Array] = field(default_factory=list)
    """For each batch its class labels, as whole numbers (n,); empty if a batch has none."""
    values: list[Array] = field(default_factory=list)
    """For each batch its targets, where they are one number each, float64 (n,); empty if a batch has none."""

    @property
    def samples(self) -> int:
        """Samples looked at."""
        return sum(self.sizes)

    @property
    def kept_all(self) -> bool:
        """Whether every batch of a whole pass is in `batches`."""
        return self.whole and len(self.batches) == len(self.sizes)

    def column(self, path: str) -> list[Array]:
        """A leaf of each batch that was kept, where all have it."""
        found = [leaves(batch).get(path) for batch in self.batches]
        return [leaf for leaf in found if isinstance(leaf, np.ndarray)] if found else []

    def table(self, path: str, kinds: str) -> Array | None:
        """A leaf of every batch that was kept as one table (n, columns); None if it is not one of these kinds of numbers
        ("f", "iu"), of one width, throughout."""
        column = self.column(path)
        if not column or len(column) != len(self.batches):
            return None
        if any(c.ndim != 2 or c.dtype.kind not in kinds or c.shape[1] != column[0].shape[1] for c in column):
            return None
        return np.concatenate(column)


def scan(session: Session, key: str, pace: Pace, seed: int) -> Scan:
    """Read the loader once, as far as `pace` goes. Every generator is put back; the loader's own is the session's.

    Raises:
        UserCodeError: the loader raised.
    """
    found = Scan(key)
    kept, classes, scalars = 0, True, True
    with kept_rng(seed):
        for number, batch in enumerate(pace.through(session.epoch(key))):
            held = leaves(batch)
            found.sizes.append(batches.size(batch))
            found.last = batch
            _look(found, number, batch, held)
            labels = class_labels(session.setup, batch, held) if classes else None
            classes = labels is not None
            if labels is not None:
                found.labels.append(labels)
            kept += sum(leaf.nbytes if isinstance(leaf, np.ndarray) else len(leaf) for leaf in held.values())
            values = scalar_targets(session.setup, batch, held) if scalars else None
            scalars = values is not None
            if values is not None:
                found.values.append(values)
            if kept <= KEPT_BYTES or not found.batches:
                found.batches.append(batch)
    found.whole = not pace.is_cut
    found.labels, found.values = found.labels if classes else [], found.values if scalars else []
    return found


def _look(found: Scan, number: int, batch: Any, held: Mapping[str, Any]) -> None:
    for path, leaf in held.items():
        if not isinstance(leaf, np.ndarray) or not leaf.size:
            continue
        if leaf.dtype.kind == "f":
            if math.isfinite(float(np.sum(leaf, dtype=np.float64))):
                continue
            finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) if leaf.ndim else np.isfinite(leaf)[None]
            rows = int((~finite).sum())
            if rows:
                found.bad[path] = found.bad.get(path, 0) + rows
                if len(found.broken) < 3:
                    found.broken.append((number, path, rows, batch))
        elif leaf.dtype.kind in "iu":
            for name, value in (("largest", int(leaf.max())), ("smallest", int(leaf.min()))):
                known = found.extremes.get((path, name))
                if known is None or (value > known.value if name == "largest" else value < known.value):
                    found.extremes[path, name] = Extreme(value, number, batch)


# --- which part of a batch is what


def target_paths(setup: TrainingSetup, batch: Any, held: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Paths of the leaves that are targets for certain: the second part of a pair for a loss_fn, or by their name."""
    held = leaves(batch) if held is None else held
    if setup.loss_fn is not None:
        return tuple(path for path in held if path == "1" or path.startswith("1."))
    return tuple(path for path in held if path.rpartition(".")[2].lower() in TARGET_NAMES)


def input_paths(setup: TrainingSetup, batch: Any) -> tuple[str, ...]:
    """Paths of all other leaves, a lone column of numbers at the end of a tuple left out: it may be a target."""
    held = leaves(batch)
    known = (*target_paths(setup, batch, held), _likely_label(batch, held))
    return tuple(path for path in held if path not in known)


def _likely_label(batch: Any, held: Mapping[str, Any]) -> str:
    """The last part of a tuple, where it is one number for each sample; empty if it is not."""
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        path = str(len(batch) - 1)
        leaf = held.get(path)
        if isinstance(leaf, np.ndarray) and leaf.ndim <= 1:
            return path
    return ""


def class_labels(setup: TrainingSetup, batch: Any, held: Mapping[str, Any] | None = None) -> Array | None:
    """The class of each sample (n,): a target of one whole number each, or of one 1 among zeros. None if there is none."""
    held = leaves(batch) if held is None else held
    count = batches.size(batch)
    for path in (*target_paths(setup, batch, held), _likely_label(batch, held)):
        leaf = held.get(path)
        if isinstance(leaf, np.ndarray) and leaf.ndim and len(leaf) == count:
            classes = as_classes(leaf)
            if classes is not None:
                return classes
    return None


def scalar_targets(setup: TrainingSetup, batch: Any, held: Mapping[str, Any] | None = None) -> Array | None:
    """(n,) float64: the target of each sample, where it is a class or one finite number; None if it is not."""
    held = leaves(batch) if held is None else held
    classes = class_labels(setup, batch, held)
    if classes is not None:
        return classes.astype(np.float64)
    for path in (*target_paths(setup, batch, held), _likely_label(batch, held)):
        leaf = held.get(path)
        if isinstance(leaf, np.ndarray) and leaf.ndim and leaf.size == len(leaf) == batches.size(batch):
            values: Array = leaf.reshape(-1).astype(np.float64)
            return values if np.isfinite(values).all() else None
    return None


def as_classes(leaf: Array) -> Array | None:
    """(n,) int64 of a leaf that can only be classes."""
    if leaf.ndim == 2 and leaf.shape[1] > 1:
        one_hot = ((leaf == 0) | (leaf == 1)).all() and (leaf.sum(axis=1) == 1).all()
        return leaf.argmax(axis=1) if one_hot else None
    flat = leaf.reshape(len(leaf), -1)
    if flat.shape[1] != 1:
        return None
    values = flat[:, 0]
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and ((values == 0) | (values == 1)).all()):
        return None
    return values.astype(np.int64) if values.dtype.kind in "biuf" else None


def replaced(batch: Any, path: str, change: Any) -> Any:
    """A copy of the batch with the tensor at `path` replaced by what `change` makes of it; the batch itself where the
    path leads to no tensor."""
    name, _, rest = path.partition(".")
    if isinstance(batch, torch.Tensor):
        return change(batch) if not path else batch
    if isinstance(batch, Mapping):
        items = {k: replaced(v, rest, change) if str(k) == name else v for k, v in batch.items()}
        if type(batch) is dict:
            return items
        copied: Any = batches.clone(batch)
        copied.update(items)
        return copied
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(
            *(replaced(v, rest, change) if f == name else v for f, v in zip(batch._fields, batch, strict=True))
        )
    if isinstance(batch, (list, tuple)):
        return type(batch)(replaced(v, rest, change) if str(i) == name else v for i, v in enumerate(batch))
    return batch
