"""Equal samples on two sides, and how many of them chance or the data's own repetitions would give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

RESPLITS = 8
"""Random partitions of the training side; their mean is stable to a few percent, which is finer than any rule needs."""

SMALL_GAPS, FEWEST_GAPS = 0.1, 100
"""Share of the gaps between values that are looked at, and gaps below which nothing is said of their size."""
BY_CHANCE = 0.1
"""Share of the equal samples that may coincide by chance where a column is taken for measured. Normal deviates in float32 give
about one pair whatever their number, rounded to two digits one in ten of all (100 to 10,000 values)."""


@dataclass(frozen=True)
class Repeats:
    """Validation samples that are equal to a training sample."""

    rows: Array
    """Their rows on the validation side, ascending."""
    twins: Array
    """For each, the first equal row on the training side."""
    share: float
    """Their share of the validation side."""
    within: float
    """Share of training samples that are equal to another training sample: what a random split of such data gives."""
    distinct: int
    """How many different contents they have."""
    distinct_share: float
    """The same as `share`, each distinct content counted once."""
    distinct_within: float
    """An upper estimate of the share of distinct contents of a further sample that the training side has, from a random
    part of it and the rest."""
    within_val: float
    """Share of validation samples that are equal to another validation sample."""


def repeats(train: Array, val: Array, *, seed: int = 0) -> Repeats:
    """Compare two sides, neither of them empty, by the digests of their samples."""
    contents, first, code, times = np.unique(train, return_index=True, return_inverse=True, return_counts=True)
    val_contents, val_code, val_times = np.unique(val, return_inverse=True, return_counts=True)
    place = np.minimum(np.searchsorted(contents, val_contents), len(contents) - 1)
    known = contents[place] == val_contents
    found = known[val_code]
    return Repeats(
        rows=np.flatnonzero(found),
        twins=first[place[val_code[found]]],
        share=float(found.mean()),
        within=float((times[code] > 1).mean()),
        distinct=int(known.sum()),
        distinct_share=float(known.mean()),
        distinct_within=_distinct_within(code, len(contents), len(val), seed),
        within_val=float((val_times[val_code] > 1).mean()),
    )


def _distinct_within(code: Array, contents: int, other: int, seed: int) -> float:
    size = min(other, len(code) // 4)
    if size == 0:
        return 0.0
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(RESPLITS):
        order = rng.permutation(len(code))
        part, rest = np.zeros(contents, bool), np.zeros(contents, bool)
        part[code[order[:size]]] = True
        rest[code[order[size:]]] = True
        shares.append(float(rest[part].mean()))
    # The rest is smaller than the side itself and finds less, at most by as much.
    return min(1.0, sum(shares) / len(shares) * len(code) / (len(code) - size))


def isolated(contents: Array, inputs: Array, halves: Array) -> Array:
    """Which of `contents` share neither half of theirs with any other content among `inputs`; boolean, one for each.

    Samples that coincide by chance lie where others coincide in part: among answers to twenty yes-or-no questions each
    half of a repeated row belongs to other rows too. A photograph, a row of measurements or a sentence has no such
    company, and two equal ones are copies. `halves` is (n, 2), in the order of `inputs`.
    """
    if not len(contents) or not halves.any(axis=0).all():
        return np.zeros(len(contents), bool)
    values, first = np.unique(inputs, return_index=True)
    place = np.searchsorted(values, contents)
    alone = np.ones(len(contents), bool)
    for side in (0, 1):
        _, code, times = np.unique(halves[first, side], return_inverse=True, return_counts=True)
        alone &= times[code[place]] == 1
    return alone


def keyed(contents: Array, inputs: Array, columns: Array) -> Array:
    """Which of `contents` have a measured value in some column that no other content has; boolean, one for each.

    For tables of few columns, where a half of a row is shared by chance. A column counts as measured if its values are
    so irregular that far fewer would coincide than `contents` are: on a grid the smallest gap between values is its
    unit, and of k gaps up to a width w about k · unit / w pairs of draws fall on one point. `columns` is (n, d), in the
    order of `inputs`.
    """
    found = np.zeros(len(contents), bool)
    if not len(contents):
        return found
    values, first = np.unique(inputs, return_index=True)
    place = np.searchsorted(values, contents)
    for column in columns[first].T:
        known, code, times = np.unique(column, return_inverse=True, return_counts=True)
        gaps = np.diff(known[np.isfinite(known)].astype(np.float64))
        if len(gaps) < FEWEST_GAPS:
            continue
        width = float(np.quantile(gaps, SMALL_GAPS))
        chance = float(gaps.min()) / width * SMALL_GAPS * len(gaps)
        if chance <= BY_CHANCE * len(contents):
            found |= times[code[place]] == 1
    return found


def rate_p(found: int, of: float, base: int, base_of: float) -> float:
    """Chance of at least `found` out of `of` when `base` out of `base_of` happen at the same rate.

    The conditional comparison of two Poisson rates (Przyborowski & Wilenski 1940): given found + base, the first is
    binomial with share of / (of + base_of).
    """
    if min(found, of, base_of) <= 0:
        return 1.0
    share, count = of / (of + base_of), found + base
    if found <= count * share:
        return 1.0

    def log_term(k: int) -> float:
        choose = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        return choose + k * math.log(share) + (count - k) * math.log1p(-share)

    # Beyond the mean the terms only fall; where a few thousand do not hold the whole sum it is far from small.
    return min(1.0, math.fsum(math.exp(log_term(k)) for k in range(found, min(count, found + 5000) + 1)))
