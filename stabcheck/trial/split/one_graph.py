"""Loaders that both give one and the same data, as a graph, and choose the nodes of each side by a mask or by indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session


@dataclass(frozen=True)
class Chosen:
    """The rows of the common data that each side chooses."""

    name: str
    """What holds the choice in a batch."""
    train: torch.Tensor
    val: torch.Tensor

    @property
    def shared(self) -> int:
        """Rows that both sides choose."""
        return int(torch.isin(self.val, self.train).sum())


def chosen(session: Session) -> Chosen | None:
    """The choice of each side where both loaders give a single batch, equal in all tensors but one mask (boolean) or list of
    distinct indices; None otherwise.

    Raises:
        UserCodeError: a loader raised.
    """
    with kept_rng():
        sides = [_parts(list(islice(session.epoch(key), 2))) for key in ("train_loader", "val_loader")]
    if any(side is None for side in sides):
        return None
    train, val = (side or {} for side in sides)
    if train.keys() != val.keys():
        return None
    different = [name for name in train if not _equal(train[name], val[name])]
    if len(different) != 1 or len(train) < 2:
        return None
    name = different[0]
    rows = [_rows(side[name]) for side in (train, val)]
    return Chosen(name, rows[0], rows[1]) if rows[0] is not None and rows[1] is not None else None


def _parts(given: list[Any]) -> dict[str, torch.Tensor] | None:
    if len(given) != 1:
        return None
    batch = given[0]
    if not isinstance(batch, (Mapping, list, tuple)) and hasattr(batch, "__dict__"):
        batch = vars(batch)
    named = (
        batch.items() if isinstance(batch, Mapping) else enumerate(batch) if isinstance(batch, (list, tuple)) else ()
    )
    return {str(name): value for name, value in named if isinstance(value, torch.Tensor)}


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool(torch.equal(one, other))


def _rows(choice: torch.Tensor) -> torch.Tensor | None:
    if choice.dim() != 1:
        return None
    if choice.dtype == torch.bool:
        return choice.nonzero().flatten()
    if choice.is_floating_point() or len(choice.unique()) != len(choice):
        return None
    return choice
