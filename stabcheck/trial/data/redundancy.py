"""What tells the model nothing new: columns of a table that never change, sequences of tokens that come again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stabcheck.trial.data.scan import Scan, input_paths
from stabcheck.trial.session import Session

FEWEST = 50
"""Samples below which a column that never changes is no surprise."""

COLUMNS = 0.1
"""Share of the columns that never change from which on a table is more than untidy. A column of ones, or a rare category,
is common; the digits of scikit-learn have 3 constant pixels in 64."""

BACKGROUND = 0.01
"""Share of a value among the columns that change from which on it is their background too: black borders of pictures,
zeros of one-hot columns, empty cells."""

LONG = 16
"""Tokens from which on two equal sequences are copies, and not the same short answer or command."""

COPIES = 0.5
"""Share of copies among the sequences from which on a data set is mostly copies."""


@dataclass(frozen=True)
class Fixed:
    """Columns of a table of inputs that hold one and the same value in every sample."""

    path: str
    value: float
    columns: tuple[int, ...]
    width: int
    samples: int


def fixed_columns(session: Session, scan: Scan) -> Fixed | None:
    """The largest group of columns that share one value that is nowhere else; only tables (n, columns) of fractions."""
    found: list[Fixed] = []
    for path in input_paths(session.setup, scan.batches[0]):
        rows = scan.table(path, "f")
        if rows is None or len(rows) < FEWEST or rows.shape[1] < 2:
            continue
        still = (rows == rows[0]).all(axis=0)
        others = rows[:, ~still]
        if not others.size:
            continue
        for value in np.unique(rows[0, still]):
            columns = np.flatnonzero(still & (rows[0] == value))
            if len(columns) >= max(2, COLUMNS * rows.shape[1]) and (others == value).mean() < BACKGROUND:
                found.append(Fixed(path, float(value), tuple(columns.tolist()), rows.shape[1], len(rows)))
    return max(found, key=lambda fixed: len(fixed.columns), default=None)


@dataclass(frozen=True)
class Copies:
    """Sequences of tokens that are equal to an earlier one."""

    path: str
    copies: int
    samples: int
    length: int


def copied_sequences(session: Session, scan: Scan) -> Copies | None:
    """Whether most sequences of tokens were there before, in one pass; None too where samples carry class labels, as an
    oversampled class is repeated on purpose."""
    if scan.labels:
        return None
    for path in input_paths(session.setup, scan.batches[0]):
        rows = scan.table(path, "iu")
        if rows is None or len(rows) < FEWEST or rows.shape[1] < LONG or len(np.unique(rows[0])) < 2:
            continue
        copies = len(rows) - len(np.unique(rows, axis=0))
        if copies > COPIES * len(rows):
            return Copies(path, copies, len(rows), rows.shape[1])
    return None
