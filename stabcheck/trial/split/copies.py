"""Equal samples across a split, and when they are more than chance and the data's own repetitions give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stabcheck.trial.split.duplicates import isolated, keyed, rate_p, repeats
from stabcheck.trial.split.sides import Split
from stabcheck.trial.split.table import Table

Array = np.ndarray[Any, Any]

MATERIAL = 0.005
"""Share of the validation samples below which a leak moves no score: public test sets hold a few copies in a
thousand (about ten of the 10,000 test images of CIFAR-10 are in its training set), and are used."""

FEW = 3
"""Copies from which on the check fails: one pair in a set is a row that someone entered twice."""

DRIFT = 1 / 3
"""Repetition beyond what each side has within itself counts from this part of it on: where data repeat by nature, the
rate differs that much between, say, two months."""

SURE, CLEAR, LIKELY, UNUSUAL = 1e-4, 1e-3, 0.1, 0.2
"""Error rates: of a comparison of all equal samples, which depend on each other; of one that counts only samples that
chance cannot have made equal; and, where training holds no two such samples, of a failure and of a warning: they are
copies then, and the only doubt is whether the split or the data are to blame."""

REPETITIVE = 0.05
"""Share of the validation samples that are copies from which it fails though training holds as many of its own: the data
repeat themselves, and a twentieth of the score is memory."""

COMMON, HANDFUL = 0.01, 5
"""A content that one training sample in a hundred has is commonplace (a blank picture, a sensor at rest) and is no copy.
There are few of such: five or more are rows that someone multiplied."""

NARROW = 8
"""Columns up to which a half of a row may well be shared by chance, so that single columns are looked at."""

CLASSES = 0.1
"""Distinct labels over samples beyond which labels are no classes but texts or measurements, which differ freely."""


@dataclass(frozen=True)
class Copies:
    """Validation samples that are equal to a training sample, and what follows."""

    verdict: Literal["warn", "fail"] | None
    rows: Array
    """Validation rows that the verdict is about, and for each an equal training row."""
    twins: Array
    by_content: bool
    """They are those that chance cannot have made equal; else all that are equal, label included."""
    repetitive: bool
    """Training holds copies of its own, so that a cause outside the two samples is likely: windows, groups."""
    expected: float
    """Equal validation samples that the repetitions within either side would give."""
    equal: float
    """Share of the validation samples that are equal to a training sample, label included."""
    equal_within: float
    """Share of the training samples that are equal to another one."""
    copies: float
    """Copies among the former, each content once: what is equal but not by chance (see `duplicates.isolated`)."""
    copies_within: float
    """Share of the training samples that are copies of another one."""


def copies(split: Split, fresh: Array) -> Copies:
    """Judge the samples among the validation rows `fresh` that are equal to a training sample.

    Two kinds of evidence: there are many more than within each side; or they are of a content that has no company, so
    that chance is excluded and a few are enough.
    """
    train, val = split.train.table, split.val.table
    of, compared = len(val), len(train)
    inputs, whole = repeats(train.inputs, val.inputs[fresh]), repeats(train.whole, val.whole[fresh])
    found = val.inputs[fresh[inputs.rows]]
    known, times = np.unique(train.inputs, return_counts=True)
    uncommon = ~np.isin(found, _commonplace(known, times))
    alone = uncommon & _isolated(found, train, val)
    contents = len(np.unique(found[alone]))
    again = (times > 1) & ~np.isin(known, _commonplace(known, times))
    again[again] = _isolated(known[again], train, val)
    pairs, within = int(again.sum()), int(times[again].sum())

    natural = max(whole.within, whole.within_val)
    by_rate = rate_p(len(whole.rows), of, round(natural * compared), compared)
    leaked = min(_beyond(whole.share, natural), _beyond(whole.distinct_share, whole.distinct_within))
    # Pairs of equal samples fall apart at random: of those not within validation, 2f / (1 + f) are split, where f is
    # validation's share of the data; half the training samples as the base gives that.
    by_content = rate_p(contents, of, pairs, compared / 2)
    # Of the copies that there are, only those of the samples that were read show.
    shows = compared / (split.train.source.total or compared)
    material = contents >= max(2, MATERIAL * shows * of)

    verdict: Literal["warn", "fail"] | None = None
    by_content_alone = True
    chosen = inputs.rows[alone], inputs.twins[alone]
    if whole.distinct >= FEW and leaked >= max(MATERIAL * shows, DRIFT * natural) and by_rate <= SURE:
        verdict, chosen, by_content_alone = "fail", (whole.rows, whole.twins), False
    elif material and not pairs and by_content <= UNUSUAL:
        verdict = "fail" if contents >= FEW and by_content <= LIKELY else "warn"
    elif material and (by_content <= CLEAR or contents >= max(FEW, REPETITIVE * shows * of)):
        verdict = "fail"
    return Copies(
        verdict=verdict,
        rows=fresh[chosen[0]],
        twins=chosen[1],
        by_content=by_content_alone,
        repetitive=pairs > 0,
        expected=natural * of,
        equal=whole.share,
        equal_within=whole.within,
        copies=contents / of,
        copies_within=within / compared,
    )


def _isolated(contents: Array, train: Table, val: Table) -> Array:
    inputs = np.concatenate([train.inputs, val.inputs])
    alone = isolated(contents, inputs, np.concatenate([train.halves, val.halves]))
    columns = _columns(train, val)
    return alone if columns is None else alone | keyed(contents, inputs, columns)


def _columns(train: Table, val: Table) -> Array | None:
    """(n, d): the fractions among the inputs of both sides where these are narrow tables; None otherwise."""
    found: list[Array] = []
    for table in (train, val):
        parts = [column.rows for column in table.values.values() if isinstance(column.rows, np.ndarray)]
        width = sum(part.shape[1] for part in parts)
        measured = [part for part in parts if part.dtype.kind == "f"]
        # A single column has no company by which draws from few values could be told from copies.
        if len(parts) < len(table.values) or len(table.kept) < len(table) or not 2 <= width <= NARROW or not measured:
            return None
        found.append(np.concatenate(measured, axis=1))
    return np.concatenate(found) if found[0].shape[1] == found[1].shape[1] else None


def _commonplace(contents: Array, times: Array) -> Array:
    found = contents[times >= max(FEW, COMMON * times.sum())]
    return np.asarray(found if len(found) < HANDFUL else found[:0])


def _beyond(share: float, natural: float) -> float:
    """The share of leaked samples that raises `natural` to `share`, leaked ones always being found."""
    return (share - natural) / (1 - natural) if natural < 1 else 0.0


def conflicts(split: Split) -> list[tuple[int, int]]:
    """Training samples with an isolated input that another has too, with another class: (row, row of the other)."""
    train = split.train.table
    if not len(train.labels) or len(np.unique(train.labels)) > max(2, CLASSES * len(train)):
        return []
    _, first = np.unique(train.whole, return_index=True)
    contents, times = np.unique(train.inputs[first], return_counts=True)
    known, often = np.unique(train.inputs, return_counts=True)
    torn = np.setdiff1d(contents[times > 1], _commonplace(known, often))
    torn = torn[isolated(torn, train.inputs, train.halves)]
    by_content: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(train.inputs, torn)).tolist():
        by_content.setdefault(int(train.inputs[row]), []).append(row)
    return [
        (row, next(other for other in rows if train.labels[other] != train.labels[row]))
        for rows in by_content.values()
        for row in rows
    ]
