"""How much a column tells about the targets beyond what other columns tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

FEWEST = 200
"""Samples below which nothing is said."""
BINS = 12
"""Equal parts into which the values of a measured column are cut."""
CATEGORIES = 64
"""Different whole numbers up to which each is taken for a category of its own, whatever the number of samples."""
PER_CATEGORY = 8
"""Samples of each category there must be on average: with fewer, as in row numbers, a column names its samples."""
EVEN = 1.001
"""Largest over smallest gap between values up to which they are row numbers, or times at a fixed rate, in whatever unit."""
CLASSES = 50
"""Different whole-number targets up to which they are classes."""
SHUFFLES = 100
SURE = 8.0
"""Deviations of the shuffled columns by which a column must tell more than these: 8 is beyond any of a few hundred columns."""
MATERIAL = 0.02
"""Share of the variance of the targets, chance taken off, from which leaving a column out costs anything that can be seen."""
KNOWN = 0.9
"""Share of a column's own variance that the others tell from which nothing is lost without it: the same quantity in another
unit, say."""


@dataclass(frozen=True)
class Told:
    """What a column tells about the targets."""

    share: float
    """Of their variance beyond what the other columns tell, less what shuffled columns tell."""
    deviations: float
    """By how many standard deviations of the shuffled ones it is more than their mean."""

    @property
    def is_telling(self) -> bool:
        """Whether it is both sure and worth having."""
        return self.deviations >= SURE and self.share >= MATERIAL


def told(column: torch.Tensor, others: Sequence[torch.Tensor], targets: torch.Tensor, seed: int) -> Told | None:
    """What `column` (n,) tells about `targets` (n, ...) beyond `others` (each (n,)); None where that cannot be said: few
    samples, a column that names each sample, or one that the others tell already.

    The share of variance between its categories (bins, where it is measured), of what an additive model of the other
    columns leaves, against the same for the column in a random order.
    """
    count = len(column)
    groups = _groups(column)
    wanted = _as_numbers(targets)
    if count < FEWEST or groups is None or wanted is None:
        return None
    design = _design(others, count)
    if _explained(_one_hot(groups), design) > KNOWN:
        return None
    rest = wanted - _fitted(wanted, design)
    total = rest.square().sum()
    if not total > 1e-9 * (wanted - wanted.mean(0)).square().sum():
        return None
    generator = torch.Generator().manual_seed(seed)
    found = _between(groups, rest)
    shuffled = torch.stack(
        [_between(groups[torch.randperm(count, generator=generator)], rest) for _ in range(SHUFFLES)]
    )
    share = (found - shuffled.mean()) / (wanted - wanted.mean(0)).square().sum()
    return Told(float(share), float((found - shuffled.mean()) / shuffled.std().clamp_min(1e-300)))


def _groups(column: torch.Tensor) -> torch.Tensor | None:
    """Number of the category of each sample; None where each has about its own, or all have the same."""
    values, numbers = column.unique(return_inverse=True)
    categories: torch.Tensor = numbers
    whole = not column.is_floating_point() or bool((column == column.round()).all())
    if len(values) < 2 or not bool(torch.isfinite(column.double()).all()):
        return None
    if len(values) <= min(CATEGORIES, len(column) // PER_CATEGORY):
        return categories
    gaps = values.double().diff()
    if whole or float(gaps.max()) <= EVEN * float(gaps.min()):
        return categories if len(values) <= len(column) // PER_CATEGORY else None
    ranks: torch.Tensor = column.argsort().argsort()
    return ranks * BINS // len(column)


def _as_numbers(targets: torch.Tensor) -> torch.Tensor | None:
    if targets.is_complex():
        return None
    flat = targets.detach().cpu().flatten(1) if targets.dim() > 1 else targets.detach().cpu()[:, None]
    if not flat.is_floating_point() and flat.shape[1] == 1:
        values, numbers = flat.unique(return_inverse=True)
        if len(values) <= CLASSES:
            return _one_hot(numbers[:, 0])
    numbers = flat.double()
    return numbers if bool(torch.isfinite(numbers).all()) else None


def _one_hot(groups: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = functional.one_hot(groups)
    return found.double()


def _design(columns: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """(n, m): each column by its categories or bins and, if measured, by its value; by its value only where there would be
    more of them than samples allow."""
    parts: list[torch.Tensor] = [torch.ones(count, 1, dtype=torch.double)]
    room = count // PER_CATEGORY
    for column in columns:
        groups = _groups(column)
        value = torch.nan_to_num(column.double())
        parts.append(((value - value.mean()) / value.std().clamp_min(1e-12))[:, None])
        room -= 1
        if groups is not None and int(groups.max()) < room:
            parts.append(_one_hot(groups))
            room -= int(groups.max()) + 1
    return torch.cat(parts, 1)


def _fitted(wanted: torch.Tensor, design: torch.Tensor) -> torch.Tensor:
    scale = design.square().sum(0).mean()
    square = design.T @ design + 1e-9 * scale * torch.eye(design.shape[1], dtype=design.dtype)
    fitted: torch.Tensor = design @ torch.linalg.solve(square, design.T @ wanted)
    return fitted


def _explained(wanted: torch.Tensor, design: torch.Tensor) -> float:
    rest = wanted - _fitted(wanted, design)
    return 1 - float(rest.square().sum() / (wanted - wanted.mean(0)).square().sum())


def _between(groups: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """Sum of squares between the categories."""
    sums = torch.zeros(int(groups.max()) + 1, rest.shape[1], dtype=rest.dtype).index_add_(0, groups, rest)
    return (sums.square() / groups.bincount().clamp_min(1)[:, None]).sum()
