"""Samples made of training samples by more than a small change: turned or shifted, but for a column or two, or in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stabcheck.trial.split.digests import codes
from stabcheck.trial.split.duplicates import repeats
from stabcheck.trial.split.table import Column

Array = np.ndarray[Any, Any]

VARIED = 8
"""Different values in a row from which the same ones in another order are no chance, and its length from which it is looked
at: twice as many."""

CHANGED = 0.1
"""Share of the columns that two versions of one row may differ in; one column always may."""

NEAREST, LOOKED_UP, SEARCHED = 24, 200, 5000
"""Neighbours among which the two ends of a line are sought, and samples of either side: SMOTE joins a sample to one of its
five nearest of the same class."""

STRAIGHT = 1e-6
"""Detour by way of the sample between, as a share of the direct way: in four columns or more chance leaves it above 1e-4 for
all but one triple in a million, rounding to float32 below 1e-7."""

MEASURED = 4
"""Columns with a value of its own for one sample in ten that must differ along the line."""

STRAIGHT_ANYWAY = 0.9
"""Share of the training samples that lie on such lines from which the data themselves are straight."""


@dataclass(frozen=True)
class Related:
    """Validation samples with a relative in training; all places count the rows that were given."""

    rows: Array
    twins: Array
    share: float
    within: float


def reordered(train: Column, val: Column) -> Related | None:
    """Rows with the values of a training row in another order: images turned or mirrored, signals shifted or reversed, channels
    exchanged. None where rows are too short to tell."""
    one, two = train.rows, val.rows
    if not (isinstance(one, np.ndarray) and isinstance(two, np.ndarray)) or one.shape[1] != two.shape[1]:
        return None
    if one.shape[1] < 2 * VARIED or not len(one) or not len(two):
        return None
    return _same(_in_any_order(one), _in_any_order(two), _varied(two))


def _in_any_order(rows: Array) -> Array:
    return np.asarray(codes(rows, np.zeros(rows.shape[1], np.int64)).sum(axis=1, dtype=np.uint64))


def _varied(rows: Array) -> Array:
    ordered = np.sort(rows, axis=1)
    return np.asarray(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) >= VARIED)


def _same(train: Array, val: Array, usable: Array) -> Related:
    found = repeats(train, val)
    kept = usable[found.rows]
    return Related(found.rows[kept], found.twins[kept], float(kept.sum() / len(val)), found.within)


def but_for_columns(train: Column, val: Column) -> Related | None:
    """Rows of a table that are equal to a training row in all columns but a few. Found by one of two halves of the columns, so
    that a single changed one is always seen."""
    one, two = train.rows, val.rows
    if not _are_tables(train, val):
        return None
    assert isinstance(one, np.ndarray)
    assert isinstance(two, np.ndarray)
    width = one.shape[1]
    pairs: dict[int, int] = {}
    within = 0.0
    for start in (0, 1):
        found = repeats(
            *(codes(np.ascontiguousarray(rows[:, start::2])).sum(axis=1, dtype=np.uint64) for rows in (one, two))
        )
        within += found.within
        pairs |= {
            int(row): int(twin) for row, twin in zip(found.rows, found.twins, strict=True) if int(row) not in pairs
        }
    rows, twins = (np.fromiter(part, int, len(pairs)) for part in (pairs.keys(), pairs.values()))
    few = (one[twins] != two[rows]).sum(axis=1) <= max(1, int(CHANGED * width))
    return Related(rows[few], twins[few], float(few.sum() / len(two)), within)


def _are_tables(train: Column, val: Column) -> bool:
    arrays = isinstance(train.rows, np.ndarray) and isinstance(val.rows, np.ndarray)
    fitting = arrays and len(train.shape) == 1 and train.shape == val.shape and train.rows.dtype.kind == "f"  # type: ignore[union-attr]
    return bool(fitting and 2 * MEASURED <= train.shape[0] <= 256 and len(train.rows) > NEAREST and len(val.rows))


def in_between(train: Column, val: Column, *, seed: int = 0) -> Related | None:
    """Rows of a table on a straight line with two training rows, as SMOTE makes them from two samples of the rare class."""
    if not _are_tables(train, val):
        return None
    rng = np.random.default_rng(seed)
    chosen = [np.sort(rng.permutation(len(c.rows))[:most]) for c, most in ((train, SEARCHED), (val, LOOKED_UP))]
    one, two = (np.asarray(c.rows)[rows].astype(np.float64) for c, rows in zip((train, val), chosen, strict=True))
    finite = np.isfinite(one).all(axis=0) & np.isfinite(two).all(axis=0) & (one.std(axis=0) > 0)
    measured = np.array([len(np.unique(column)) > len(one) / 10 for column in one.T]) & finite
    if measured.sum() < MEASURED:
        return None
    centre, unit = one[:, finite].mean(axis=0), one[:, finite].std(axis=0)
    base, asked = (torch.from_numpy((rows[:, finite] - centre) / unit) for rows in (one, two))
    counts = torch.from_numpy(measured[finite])
    plain = torch.from_numpy(unit)
    hits, ends = _on_lines(base, asked, counts, plain, None)
    own = torch.from_numpy(np.sort(rng.permutation(len(base))[:LOOKED_UP]))
    among, _ = _on_lines(base, base[own], counts, plain, own)
    rows = hits.nonzero().flatten().numpy()
    return Related(
        chosen[1][rows], chosen[0][ends.numpy()[rows]], float(hits.double().mean()), float(among.double().mean())
    )


def straight_by_chance(dimension: float) -> float:
    """Share of samples of this intrinsic dimension that have two of their neighbours on a line with them anyway: a detour of
    STRAIGHT is a distance from the line of its square root, in each direction across."""
    off_line: float = STRAIGHT ** (max(0.0, dimension - 1) / 2)
    return min(1.0, NEAREST * (NEAREST - 1) / 2 * off_line)


def _on_lines(
    base: torch.Tensor, asked: torch.Tensor, counts: torch.Tensor, unit: torch.Tensor, own: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of `asked` are on a line with two of their neighbours, and one of these; neighbours in standard units and in
    the table's own, as either may have been used."""
    hits, ends = torch.zeros(len(asked), dtype=torch.bool), torch.zeros(len(asked), dtype=torch.long)
    for scale in (torch.ones_like(unit), unit):
        gap = torch.cdist(asked * scale, base * scale)
        if own is not None:
            gap[torch.arange(len(own)), own] = torch.inf
        near = gap.topk(NEAREST, largest=False).indices
        around = base[near]
        to = (around - asked[:, None]).norm(dim=2)
        across = (around[:, :, None] - around[:, None]).norm(dim=3)
        sides = torch.stack([to[:, :, None].expand_as(across), to[:, None].expand_as(across), across])
        longest = sides.amax(0)
        straight = sides.sum(0) - 2 * longest <= STRAIGHT * longest
        # Copies, of the sample or of each other, are on a line with anything.
        straight &= sides.amin(0) > 1e-3 * longest
        straight &= ((around[:, :, None] != around[:, None]) & counts).sum(3) >= MEASURED
        found = straight.flatten(1)
        new = found.any(1) & ~hits
        ends[new] = near[new, found[new].int().argmax(1) // NEAREST]
        hits |= new
    return hits, ends
