"""Positions of sequences that no sample of the data ever uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from stabcheck.trial import batches
from stabcheck.trial.data.scan import Scan, input_paths
from stabcheck.trial.session import Session

FEWEST_SAMPLES, NARROWEST = 64, 16
"""Samples, all of one width, and positions below which an unused position is an accident, or costs nothing."""
MOST = 0.5
"""Share of the positions from which on more of each batch is thrown away than used."""
MASK_VALUES = 3
"""Distinct values up to which it may be a mask, or kinds of tokens, that goes by other ids."""


@dataclass(frozen=True)
class Unused:
    """Token ids that are one value in all samples from some position on, or up to it."""

    path: str
    width: int
    longest: int
    """Positions that any sample uses."""
    value: int
    samples: int

    @property
    def share(self) -> float:
        """Share of the positions that none uses."""
        return 1 - self.longest / self.width


def unused_positions(session: Session, scan: Scan) -> Unused | None:
    """The input most of which is padding in every batch that was kept; None if there is none."""
    samples = sum(map(batches.size, scan.batches))
    if samples < FEWEST_SAMPLES or not any(
        isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in session.model.modules()
    ):
        return None
    for path in input_paths(session.setup, scan.batches[0]):
        rows = scan.table(path, "iu")
        found = _unused(path, rows) if rows is not None and rows.shape[1] >= NARROWEST else None
        if found is not None and found.share >= MOST:
            return found
    return None


def _unused(path: str, rows: np.ndarray[Any, Any]) -> Unused | None:
    if len(np.unique(rows)) <= MASK_VALUES:
        return None
    ends = [(side[0, -1], np.flatnonzero((side != side[0, -1]).any(axis=0))) for side in (rows, rows[:, ::-1])]
    value, used = min(ends, key=lambda end: len(end[1]) and int(end[1][-1]))
    return Unused(path, rows.shape[1], int(used[-1]) + 1, int(value), len(rows)) if len(used) else None
