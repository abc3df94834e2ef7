"""The pictures of a report: the learning-rate schedule, the gradient norms and the one-batch loss.

They are drawn from the measurements of three checks. A measurement that is absent or has another shape than
expected leaves its picture out: the report is read when something is wrong, so drawing must not fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabcheck.renderers.plots import Level, Series, plot
from stabcheck.renderers.text import MAX_PROSE, Paper, as_records, number, numbers, short

if TYPE_CHECKING:
    from stabcheck.report import CheckResult, Report

ROWS = 14
"""Parameters listed in the gradient table: what fits a screen together with the plot."""

EXTREMES = 4
"""Of these, how many of the largest and how many of the smallest are always among them."""

FAR = 2.0
"""A clip threshold that is so many times the largest norm is named instead of drawn: it would flatten the curve."""

COLUMN = 9
"""Room for a number such as 1.23e-10, and a gap before it."""

BAR = 12
"""Columns of the bar that shows a norm on a logarithmic scale."""


def write_pictures(paper: Paper, report: Report, *, verbose: bool) -> None:
    """The schedule and the gradient norms always; the one-batch loss where it did not fall, or on demand."""
    checks = {check.id: check for check in report.checks}
    if "lr-schedule" in checks:
        _write_schedule(paper, checks["lr-schedule"].measurements)
    if "gradient-norms" in checks:
        _write_gradients(paper, checks["gradient-norms"].measurements)
    one_batch = checks.get("one-batch-overfit")
    if one_batch is not None and (verbose or one_batch.status not in {"pass", "skip"}):
        _write_one_batch(paper, one_batch)


def _write_schedule(paper: Paper, measured: Mapping[str, Any]) -> None:
    title, series = rate_curves(measured)
    lines = plot(paper, series)
    if lines:
        paper.heading(title)
        _write_lines(paper, lines)


def rate_curves(measured: Mapping[str, Any]) -> tuple[str, list[Series]]:
    """The learning rate over the planned run, one curve for all groups that are alike, and what to write above it."""
    steps = numbers(measured.get("steps"))
    groups = measured.get("rates")
    rates = [numbers(group) for group in groups] if isinstance(groups, (list, tuple)) else []
    # Groups that differ only in weight decay have the same rate: one curve says it.
    alike: dict[tuple[float, ...], list[int]] = {}
    for index, group in enumerate(rates):
        alike.setdefault(tuple(group), []).append(index)
    series = [
        Series(f"group{'s' * (len(members) > 1)} {_ranges(members)}", steps, values)
        for values, members in alike.items()
    ]
    planned = number(measured.get("planned_steps"))
    length = f" over the {planned:.0f} planned steps" if planned is not None and math.isfinite(planned) else ""
    same = f" ({len(rates)} parameter groups, all the same)" if len(rates) > 1 and len(series) == 1 else ""
    return f"Learning rate{length}{same}", series


def _write_gradients(paper: Paper, measured: Mapping[str, Any]) -> None:
    total, clipped = numbers(measured.get("total")), numbers(measured.get("clipped"))
    steps = numbers(measured.get("steps")) or [float(index) for index in range(len(total))]
    series = [Series("before clipping", steps, total)]
    if clipped and any(a != b for a, b in zip(total, clipped, strict=False) if math.isfinite(a) and math.isfinite(b)):
        series.append(Series("after clipping", steps, clipped))
    threshold = number(measured.get("clip_threshold"))
    levels, aside = [], ""
    if threshold is not None and threshold <= FAR * max(filter(math.isfinite, total), default=0.0):
        levels = [Level("clip threshold", threshold)]
    elif threshold is not None:
        aside = f" (far below the clip threshold {short(threshold)})"
    lines = plot(paper, series, levels=levels, height=7)
    parameters = as_records(measured.get("parameters"))
    if not lines and not parameters:
        return
    paper.heading(f"Gradient norm of all parameters together, step by step{aside}" if lines else "Gradient norms")
    _write_lines(paper, lines)
    if parameters:
        paper.write()
        _write_parameters(paper, parameters)


def _write_parameters(paper: Paper, parameters: Sequence[Mapping[str, Any]]) -> None:
    from rich.cells import cell_len
    from rich.table import Table

    chosen = _chosen([_median(one) for one in parameters])
    # Names come first: two parameters that look alike are of no use.
    columns = ["first", "median", "max", "last"] if paper.width >= 96 else ["median", "last"]
    columns += (
        ["clipped"] if any(number(one.get("clipped_median")) not in {None, _median(one)} for one in parameters) else []
    )
    columns = columns if paper.width >= 60 else columns[: 2 if paper.width >= 40 else 1]
    bars = paper.width >= 72
    room = min(paper.width, MAX_PROSE) - 2 - COLUMN * len(columns) - (BAR + 8) * bars
    names = [paper.tail(parameters[index].get("name", "?"), max(room, 10)) for index in chosen]
    # No padding, but columns that are wider: rich has changed what it pads.
    table = Table(box=None, padding=0, header_style="dim")
    table.add_column("Gradient norm of", overflow="fold", width=max(map(cell_len, [*names, "Gradient norm of"])))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, width=COLUMN)
    if bars:
        table.add_column("  median, log scale", no_wrap=True, style="cyan")
    positive = [value for one in parameters if math.isfinite(value := _median(one)) and value > 0]
    for index, name in zip(chosen, names, strict=True):
        one = parameters[index]
        values = [number(one.get("clipped_median" if column == "clipped" else column)) for column in columns]
        cells = [paper.words("-" if value is None else (short(value), _style(value))) for value in values]
        bar = [paper.words("  " + _bar(_median(one), positive, paper.ascii))] if bars else []
        table.add_row(paper.words(name), *cells, *bar)
    paper.write(table, indent=2, width=paper.width)
    if len(chosen) < len(parameters):
        shown = f"{len(chosen)} of {len(parameters)} parameters, in model order: the largest, the smallest and some between."
        paper.write(paper.words((f"{shown} --log-gradients writes all, for every step.", "dim")), indent=2)


def _write_one_batch(paper: Paper, check: CheckResult) -> None:
    curves = check.measurements.get("curves")
    if not isinstance(curves, Mapping):
        return
    lines = plot(paper, one_batch_curves(curves), levels=loss_levels(check.measurements))
    if lines:
        paper.heading("Loss when training on one batch only, step by step")
        _write_lines(paper, lines)


def one_batch_curves(curves: Mapping[str, Any]) -> list[Series]:
    """The losses of every attempt to fit one batch."""
    return [Series(str(name), range(len(values)), values) for name, item in curves.items() if (values := numbers(item))]


def loss_levels(measured: Mapping[str, Any]) -> list[Level]:
    """What a loss is to be compared with, as far as it is known."""
    wanted = (("constant", "constant prediction"), ("oracle", "lowest possible"))
    found = ((name, number(measured.get(key))) for key, name in wanted)
    return [Level(name, value) for name, value in found if value is not None]


def _write_lines(paper: Paper, lines: Sequence[Any]) -> None:
    for line in lines:
        paper.write(line, width=paper.width)


def _median(one: Mapping[str, Any]) -> float:
    value = number(one.get("median"))
    return math.nan if value is None else value


def _chosen(medians: Sequence[float]) -> list[int]:
    """Which rows to show: the largest, the smallest (anything that is not finite counts as largest), the rest even."""
    count = len(medians)
    if count <= ROWS:
        return list(range(count))
    order = sorted(range(count), key=lambda index: medians[index] if math.isfinite(medians[index]) else math.inf)
    chosen = {*order[:EXTREMES], *order[-EXTREMES:], 0, count - 1}
    others = [index for index in range(count) if index not in chosen]
    free = ROWS - len(chosen)
    chosen |= {others[round((part + 0.5) * len(others) / free - 0.5)] for part in range(free)}
    return sorted(chosen)


def _bar(value: float, positive: Sequence[float], ascii: bool) -> str:
    """A bar that is one column for the smallest norm and BAR for the largest; empty for zero or NaN."""
    if not positive or not math.isfinite(value) or value <= 0:
        return ""
    low, high = math.log10(min(positive)), math.log10(max(positive))
    # At least three decades, so that norms that are much alike get bars that are much alike.
    low = min(low, high - 3)
    return ("#" if ascii else "━") * max(round((math.log10(value) - low) / (high - low) * BAR), 1)


def _style(value: float) -> str:
    return "" if math.isfinite(value) else "bold red"


def _ranges(members: Sequence[int]) -> str:
    """0-3, 5: consecutive numbers joined."""
    parts: list[list[int]] = []
    for member in members:
        if parts and member == parts[-1][-1] + 1:
            parts[-1].append(member)
        else:
            parts.append([member])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
