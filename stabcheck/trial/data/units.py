"""The units of numbers: mean and spread of each feature, and what a change to standard units makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

FEATURES = 4096
"""Columns from which on a row is taken as one signal with one unit, and not as so many features."""


@dataclass(frozen=True)
class Units:
    """Mean and spread along one axis of a tensor; `axis` None: one of each for all."""

    axis: int | None
    mean: torch.Tensor
    std: torch.Tensor
    """Zero where a feature is constant."""

    def standard(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in standard units; constant features become zero."""
        mean, std = self._shaped(tensor)
        return torch.where(std > 0, (tensor.to(mean) - mean) / torch.where(std > 0, std, 1.0), 0.0).to(tensor.dtype)

    def into(self, other: Units, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of these units in those of `other`."""
        mean, std = other._shaped(tensor)
        return (self.standard(tensor) * std.to(tensor.dtype) + mean.to(tensor.dtype)).to(tensor.dtype)

    def _shaped(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.axis is None:
            return self.mean.to(tensor.device), self.std.to(tensor.device)
        shape = [1] * tensor.dim()
        shape[self.axis] = -1
        return self.mean.to(tensor.device).view(shape), self.std.to(tensor.device).view(shape)

    @property
    def worst(self) -> float:
        """The largest mean or spread in absolute value: 1 to 3 in standard units."""
        return float(torch.maximum(self.mean.abs(), self.std).max())

    @property
    def largest_spread(self) -> float:
        """The spread of the feature that varies most."""
        return float(self.std.max())


def units(pieces: Sequence[torch.Tensor]) -> Units | None:
    """The units of batches of one leaf (batch first): by column for tables, by channel for images, by feature for
    sequences; None unless they are fractions or numbers of one form, finite, and more than one value."""
    if not pieces or any(t.dim() < 1 or t.layout != torch.strided or t.is_complex() for t in pieces):
        return None
    if len({t.dim() for t in pieces}) != 1 or sum(len(t) for t in pieces) < 2:
        return None
    axis = _axis(pieces)
    values = [t.detach().double() for t in pieces]
    columns = torch.cat(
        [t.reshape(-1, 1) if axis is None else t.movedim(axis, -1).reshape(-1, t.shape[axis]) for t in values]
    )
    if not torch.isfinite(columns).all() or len(columns) < 2:
        return None
    std = columns.std(0, unbiased=False)
    std = torch.where(std > 1e-9 * columns.abs().amax(0), std, 0.0)
    mean = columns.mean(0)
    return Units(None, mean[0], std[0]) if axis is None else Units(axis, mean, std)


def _axis(pieces: Sequence[torch.Tensor]) -> int | None:
    """The axis of the features: channels come first for images (two axes after them), last for sequences."""
    first = pieces[0]
    if first.dim() < 2:
        return None
    if first.dim() == 2:
        candidates = [1]
    elif first.dim() == 3:
        candidates = [2, 1]
    else:
        candidates = [1, first.dim() - 1] if first.shape[-1] > 4 else [first.dim() - 1, 1]
    fixed = [a for a in candidates if len({t.shape[a] for t in pieces}) == 1 and first.shape[a] <= FEATURES]
    if first.dim() >= 3:
        fixed = [a for a in fixed if first.shape[a] <= 64] or []
    return fixed[0] if fixed else None
