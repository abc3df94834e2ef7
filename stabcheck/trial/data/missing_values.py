"""Numbers that stand for a missing value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stabcheck.check import Skip
from stabcheck.trial.data.scan import Scan, input_paths, replaced
from stabcheck.trial.data.unusable_batches import loss_of
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import leaves
from stabcheck.userland import UserCodeError

Array = np.ndarray[Any, Any]

FEWEST = 50
"""Samples below which a value that stands out is no habit."""


@dataclass(frozen=True)
class Code:
    """One value, far from all others of its column, that stands in many samples."""

    path: str
    value: float
    columns: tuple[int, ...]
    share: float
    """Share of the samples that hold it, in the column where most do."""
    low: float
    high: float
    """Range of the other values of that column."""
    mean: float = 0.0
    spread: float = 1.0
    """Of these."""
    all: tuple[Code, ...] = ()
    """The codes of all columns of that table, each column with its own."""


FAR = 5.0
"""Distance of a code from the other values, in ranges of these."""

OFTEN = 0.005
"""Share of the samples from which on one and the same far value is no accident."""

DISTINCT = 10
"""Distinct other values that make a column a measurement."""

SPECIAL = 0.2
"""Share of the effect of taking a code away that a model sees in a thousandth of it only if it looks for this very number."""

CODES = {float(sign * value) for sign in (-1, 1) for value in (99, 999, 9999, 99999, 999999, 32767, 32768, 2147483647)}
"""Values that data sets use for "missing", by convention."""


def missing_codes(session: Session, scan: Scan) -> Code | None:
    """The most frequent such value in a table of inputs."""
    found: list[Code] = []
    for path in input_paths(session.setup, scan.batches[0]):
        column = scan.column(path)
        if not column or any(
            c.ndim not in {2, 3} or c.dtype.kind != "f" or c.shape[-1] != column[0].shape[-1] for c in column
        ):
            continue
        rows = np.concatenate([c.reshape(-1, c.shape[-1]) for c in column]).astype(np.float64)
        if len(rows) >= FEWEST and rows.shape[1] <= 2000 and np.isfinite(rows).all():
            found += [code for j in range(rows.shape[1]) if (code := _code(path, j, rows[:, j])) is not None]
    if not found:
        return None
    best = max(found, key=lambda code: (code.value in CODES, code.share))
    same = tuple(code.columns[0] for code in found if code.path == best.path and code.value == best.value)
    every = tuple(code for code in found if code.path == best.path)
    return replace(best, columns=same or best.columns, all=every)


def _code(path: str, j: int, values: Array) -> Code | None:
    for value, others in ((values.min(), values[values > values.min()]), (values.max(), values[values < values.max()])):
        share = 1 - len(others) / len(values)
        if len(others) < FEWEST / 2 or share < max(OFTEN, 3 / len(values)):
            continue
        low, high = float(others.min()), float(others.max())
        gap = min(abs(value - low), abs(value - high))
        if high > low and gap > FAR * (high - low) and len(np.unique(others)) >= DISTINCT:
            return Code(path, float(value), (j,), share, low, high, float(others.mean()), float(others.std()))
    return None


def is_handled(session: Session, scan: Scan, code: Code, seed: int) -> bool | None:
    """Whether the model tells the code from a number next to it, as one does that was made for it; None if not known."""
    near = np.float32(code.value) * np.float32(1 + 1e-3)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor == code.value, torch.full_like(tensor, float(near)), tensor)

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        return torch.where(tensor == code.value, torch.full_like(tensor, (code.low + code.high) / 2), tensor)

    for batch in scan.batches:
        leaf = leaves(batch).get(code.path)
        if isinstance(leaf, np.ndarray) and (leaf == np.asarray(code.value, leaf.dtype)).any():
            try:
                base, beside, inside = (
                    loss_of(session, scan.key, b, seed)
                    for b in (batch, replaced(batch, code.path, moved), replaced(batch, code.path, filled))
                )
            except (UserCodeError, Skip):
                return None
            # To a model that takes it for a measurement a number a thousandth away moves the loss, and a little only.
            return beside == base or base == inside or abs(beside - base) > SPECIAL * abs(inside - base)
    return None
