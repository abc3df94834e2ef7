"""Near-copies across a split, and when they are too many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from stabcheck.trial.split.duplicates import rate_p, repeats
from stabcheck.trial.split.neighbours import Neighbours, neighbours
from stabcheck.trial.split.related import (
    LOOKED_UP,
    STRAIGHT_ANYWAY,
    but_for_columns,
    in_between,
    reordered,
    straight_by_chance,
)
from stabcheck.trial.split.sides import Split
from stabcheck.trial.split.table import Column, Table

Array = np.ndarray[Any, Any]

RATIOS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01)
"""Ratios at which near-copies are counted. Noise of 5 % of an image's range gives about 0.4, of 1 % about 0.1."""

FEW, MATERIAL = 3, 0.005
"""Near-copies, and their share of the samples looked up, below which nothing is said: real data hold as many."""

SURE, LIKELY = 1e-5, 0.01
"""Error rates: of comparing counts with those within training, for any of the views and ratios, and of the same for
samples that are nearer than even scatter would have it (PROOF)."""

PROOF = 1e-4
"""Chance of a ratio under even scatter from which on each sample counts by itself. None of digits, wine, breast cancer,
diabetes, iris, moons, blobs, sines and their random splits had one."""

FAILS = 0.02
"""Share beyond training's own that fails: near-copies are no proof each, a fiftieth of the set is."""

EVERYWHERE, REPETITIVE = 0.5, 0.05
"""Shares from which near-copies fail even where training is as full of them, as half of the score, or a twentieth, is then for
samples with a sibling in training. The greater where samples of a class are few, or not known to be many: a class may
well consist of views of one thing."""

SCATTER = 0.1
"""The most that even scatter may give, as a part of the share that is found."""

MADE = 1e-3
"""Chance of the numbers of versions (see `multiplicity`) up to which someone made them. Forms drawn at random, evenly or not,
had 0.4 or more in 800 draws of 1100, one or three copies of all or of every third sample 2e-5 or less in 600; a copy of every third
of 427 measurements has 1e-4."""

EXACT = 0.01
"""Ratio up to which one original is the only explanation, whatever the labels are."""

PHRASES = 0.05
"""Share of near-copies that language has by nature."""

RARE = 0.02
"""Share of the training samples with an exact relative in training from which such relatives are in the nature of the data."""

NARROW = 8
"""Columns up to which rounded values make a lattice that is thickly settled."""

LARGE_CLASS = 50
"""Training samples of a class: several times the neighbours looked at."""

HOW = {
    "values": "in value",
    "standardised": "in standard units",
    "normalised": "but for brightness and contrast",
    "mirrored": "after mirroring",
    "inverted": "but for brightness and contrast, with light and dark exchanged",
    "tokens": "in their runs of three tokens",
    "order": "the same values in another order: turned, mirrored or shifted",
    "columns": "equal but for a column or two",
    "between": "on a straight line with two samples, as oversampling by SMOTE puts them",
    "text": "in their runs of four letters",
}


@dataclass(frozen=True)
class Near:
    """What one view says about near-copies."""

    view: str
    how: str
    share: float
    within: float
    """The share of training samples with a near-copy in training."""
    verdict: Literal["warn", "fail"] | None
    rows: Array
    """Validation rows that have one, nearest first."""
    twins: Array
    """Their training rows."""
    distances: list[float]
    compared: int
    """Validation samples looked up."""
    searched: int
    """Training samples among which was searched."""


def _on_lattice(view: Neighbours, width: int) -> bool:
    """Whether a narrow table has rounded values: its rows sit on a lattice, whose steps are near-copies of nothing, and the
    distances between neighbours are a few numbers over and over."""
    near = view.distance[np.isfinite(view.distance) & (view.distance > 0)]
    if width > NARROW or not len(near):
        return False
    return len(np.unique(np.round(near / near.max(), 5))) < len(near) / 2


def _judged(view: Neighbours, *, apart: bool, shows: float, width: int) -> Near:
    """Count near-copies at the ratio where they stand out most from those within training; of those that there are,
    the part `shows` can be seen, as only so many of the training samples were searched."""
    best: tuple[float, float, Literal["warn", "fail"] | None] = (0.0, RATIOS[-1], None)
    lattice = _on_lattice(view, width)
    for limit in RATIOS:
        found, own = int((view.ratio <= limit).sum()), int((view.within <= limit).sum())
        share, within = found / len(view.ratio), own / len(view.within)
        p = rate_p(found, len(view.ratio), own, len(view.within))
        # Language repeats its phrases: it is nothing like evenly scattered, and no single pair is a proof.
        chance = max(view.chance(limit, apart=apart), PHRASES if view.view in {"tokens", "text"} else 0.0)
        verdict: Literal["warn", "fail"] | None = None
        full = REPETITIVE if apart or limit <= EXACT else EVERYWHERE
        if share >= full and chance <= SCATTER * share and not lattice and view.made_p(limit) <= MADE:
            verdict = "fail"
        elif found >= FEW and share - within >= max(MATERIAL * shows, within / 3, chance) and p <= SURE:
            verdict = "fail" if share - within >= FAILS * shows else "warn"
        elif found >= 2 and share >= max(MATERIAL * shows, 4 * within) and p <= LIKELY and chance <= PROOF:
            verdict = "warn"
        best = max(best, (share - within, limit, verdict), key=lambda b: (b[2] == "fail", b[2] is not None, b[0]))
    limit = best[1]
    hits = np.flatnonzero(view.ratio <= limit)
    hits = hits[np.argsort(view.ratio[hits], kind="stable")]
    return Near(
        view=view.view,
        how=f"{HOW[view.view]}, within {limit:g} of the distance to the tenth neighbour",
        share=len(hits) / len(view.ratio),
        within=float((view.within <= limit).mean()),
        verdict=best[2],
        rows=view.rows[hits],
        twins=view.nearest[hits],
        distances=[float(d) for d in view.distance[hits][:5]],
        compared=len(view.ratio),
        searched=view.searched,
    )


def near_copies(split: Split, fresh: Array) -> list[Near]:
    """Look for near-copies of the validation rows `fresh`, equal samples left out: texts that differ in case and spacing
    only, and neighbours in the largest leaf of the input."""
    train, val = split.train.table, split.val.table
    found = []
    if not (np.array_equal(train.folded, train.inputs) and np.array_equal(val.folded, val.inputs)):
        found.append(_recased(split, fresh))
    pair = split.largest()
    if pair is not None:
        _, once = np.unique(train.inputs[train.kept], return_index=True)
        width = int(np.prod(pair[0].shape)) if isinstance(pair[0].rows, np.ndarray) else NARROW + 1
        dimension = float(width)
        for view in neighbours(*pair, once, split.unlike(fresh)):
            if view.view in {"values", "standardised"}:
                dimension = min(dimension, *view.dimensions)
            named = replace(view, rows=val.kept[view.rows], nearest=train.kept[view.nearest])
            shows = view.searched / max(view.searched, split.train.source.total or len(once))
            found.append(_judged(named, apart=_large_classes(train), shows=shows, width=width))
        found += _relatives(split, pair, once, fresh, dimension)
    return found


def _relatives(
    split: Split, pair: tuple[Column, Column], once: Array, fresh: Array, dimension: float
) -> Iterator[Near]:
    """Exact relatives of other kinds, which count where hardly any training sample has one: except those in between, which
    training is full of too where it was filled up before the split."""
    train, val, rows = split.train.table, split.val.table, split.unlike(fresh)
    sides = [_rows_of(column, chosen) for column, chosen in zip(pair, (once, rows), strict=True)]
    if None in sides or not len(rows) or not len(once):
        return
    one, two = (side for side in sides if side is not None)
    for view, look in (("order", reordered), ("columns", but_for_columns), ("between", in_between)):
        same = look(one, two)
        if same is None:
            continue
        looked_up = min(len(rows), LOOKED_UP) if view == "between" else len(rows)
        p = rate_p(len(same.rows), looked_up, round(same.within * len(once)), len(once))
        rare = same.within <= RARE and p <= SURE
        curved = same.within < STRAIGHT_ANYWAY and straight_by_chance(dimension) <= SCATTER * same.share
        told = len(same.rows) >= FEW and (curved if view == "between" else rare)
        yield Near(
            view=view,
            how=HOW[view],
            share=same.share,
            within=same.within,
            verdict=None if not told or same.share < MATERIAL else "fail" if same.share >= FAILS else "warn",
            rows=val.kept[rows[same.rows]],
            twins=train.kept[once[same.twins]],
            distances=[],
            compared=looked_up,
            searched=len(once),
        )


def _rows_of(column: Column, rows: Array) -> Column | None:
    return Column(column.rows[rows], column.shape) if isinstance(column.rows, np.ndarray) else None


def _large_classes(train: Table) -> bool:
    """Whether the labels are classes of many samples each, so that small clusters are none of them."""
    if not len(train.labels):
        return False
    _, sizes = np.unique(train.labels, return_counts=True)
    return float(np.median(sizes)) >= LARGE_CLASS


def _recased(split: Split, fresh: Array) -> Near:
    train, val = split.train.table, split.val.table
    _, once = np.unique(train.inputs, return_index=True)
    fresh = fresh[~np.isin(val.inputs[fresh], train.inputs)]
    if not len(fresh):
        return Near("case", "", 0.0, 0.0, None, fresh, fresh, [], 0, len(once))
    same = repeats(train.folded[once], val.folded[fresh])
    p = rate_p(len(same.rows), len(fresh), round(same.within * len(once)), len(once))
    enough = same.distinct >= FEW and same.share - same.within >= MATERIAL and p <= LIKELY
    return Near(
        view="case",
        how="equal but for case and spacing",
        share=same.share,
        within=same.within,
        verdict=("fail" if same.share - same.within >= FAILS else "warn") if enough else None,
        rows=fresh[same.rows],
        twins=once[same.twins],
        distances=[0.0] * len(same.rows[:5]),
        compared=len(fresh),
        searched=len(once),
    )
