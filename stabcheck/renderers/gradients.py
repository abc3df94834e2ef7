"""The log of gradient norms: one row for each step and parameter, for plotting or comparing elsewhere."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stabcheck.report import plain

if TYPE_CHECKING:
    from stabcheck.recording import Recording

COLUMNS = ("step", "parameter", "grad_norm", "clipped_norm")
TOTAL = "(total)"
"""The name in the parameter column for all gradients together; no parameter can be called that."""

FORMATS = (".csv", ".jsonl")


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """One row per step for the total, then for each parameter. `grad_norm` is the L2 norm as backward left it,
    `clipped_norm` as the optimizer saw it; None where there was no gradient at that step."""
    for position, step in enumerate(recording.steps):
        yield dict(zip(COLUMNS, (step.index, TOTAL, step.grad_norm, step.clipped_norm), strict=True))
        for parameter in recording.parameters:
            norms = (parameter.grad_norm[position], parameter.clipped_norm[position])
            yield dict(zip(COLUMNS, (step.index, parameter.name, *norms), strict=True))


def render(recording: Recording, format: str) -> str:
    """The rows as CSV with a header (an absent norm is an empty field, NaN is `nan`) or as one JSON object per line
    (null, "NaN")."""
    out = io.StringIO()
    if format == ".csv":
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(recording))
    else:
        out.writelines(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows(recording))
    return out.getvalue()
