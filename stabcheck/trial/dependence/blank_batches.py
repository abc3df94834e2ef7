"""Batches in which every number of the inputs is the same one, for set-ups whose model's call cannot be looked at."""

from __future__ import annotations

from typing import Any

import numpy as np

from stabcheck.reading import batch_part
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.scan import Scan, input_paths, scalar_targets, scan, target_paths
from stabcheck.trial.dependence.constant_inputs import Alike
from stabcheck.trial.pace import Pace
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import leaves

Array = np.ndarray[Any, Any]

SECONDS = 1.0
"""For reading the training data."""
FEWEST = 50
"""Samples below which nothing is said about what they have in common."""

EXTRAS = ("mask", "type", "length", "position", "index")
"""Words in the names of leaves that may well be the same in every sample; so is "id" as a whole word."""


def blank(bench: Bench) -> Alike | None:
    """Whether every input leaf holds one value throughout, sequences filled up with another one, while targets differ."""
    session = bench.shared()
    found = scan(session, "train_loader", Pace.on(bench, SECONDS), bench.seed)
    samples = sum(map(batches.size, found.batches))
    if samples < FEWEST or not _targets_differ(session, found):
        return None
    paths = [p for p in input_paths(session.setup, found.batches[0]) if not _is_extra(p)]
    values = [_one_value(found.column(path), len(found.batches)) for path in paths]
    if not paths or None in values:
        return None
    where = " and ".join(map(batch_part, paths))
    return Alike(where, "number", str(values[-1]), samples, len(found.batches))


def _is_extra(path: str) -> bool:
    words = path.lower().replace(".", "_").split("_")
    return any(word in path.lower() for word in EXTRAS) or words[-1] == "id"


def _targets_differ(session: Session, found: Scan) -> bool:
    """Whether targets are known and differ from sample to sample."""
    seen: set[bytes] = set()
    for batch in found.batches:
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


def _one_value(column: list[Array], count: int) -> str | None:
    """The value that fills every sample, and the one that pads it; None if a batch lacks the leaf or holds anything else."""
    if len(column) != count or any(leaf.dtype.kind not in "fiu" or leaf.ndim < 2 for leaf in column):
        return None
    kinds: set[float] = set()
    for leaf in column:
        kinds |= set(np.unique(leaf).astype(float).tolist())
        if len(kinds) > 2:
            return None
    if len(kinds) == 1:
        return f"{kinds.pop():g}"
    # Padding is a run at one end of each sequence, the same end throughout. A yes-or-no sequence may be ordered by chance.
    if any(leaf.dtype.kind == "f" or leaf.ndim != 2 for leaf in column) or all(leaf.shape[1] < 3 for leaf in column):
        return None
    for padding in kinds:
        (value,) = kinds - {padding}
        changes = [np.diff((leaf == padding).astype(np.int8), axis=1) for leaf in column]
        right = all((c >= 0).all() and (leaf[:, 0] == value).all() for c, leaf in zip(changes, column, strict=True))
        left = all((c <= 0).all() and (leaf[:, -1] == value).all() for c, leaf in zip(changes, column, strict=True))
        if right or left:
            return f"{value:g} (or {padding:g}, which fills up)"
    return None
