"""Curves in a terminal: plotille's braille canvas, with axes of our own.

plotille draws the lines well, but puts a tick at every tenth column, at whatever value falls there; ours are at round
values. Without Unicode the same dots are shown by the ASCII characters that look most like them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stabcheck.renderers.text import Paper, short
from stabcheck.stats import quantile

if TYPE_CHECKING:
    from rich.text import Text

COLORS = ("cyan", "magenta", "yellow", "green", "blue", "red")
"""One for each series, in an order in which neighbours are easy to tell apart."""

MAX_COLUMNS = 80
"""A wider curve shows nothing more: measurements have at most 200 points, and a column has two."""

LOG_RATIO = 100.0
"""The axis is logarithmic when the middle 80 % of the values span this much. A cosine or linear decay to zero spans
40 or 9 and is best seen as it is; an exponential decay over decades, or groups decades apart, need the logarithm."""

LARGEST = 1e100
"""Far outside float32, and far enough from the end of float64 that axes can be computed."""


@dataclass(frozen=True)
class Series:
    """One curve. Points that are not finite, or whose x is no step that a run could reach, are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def points(self) -> list[tuple[float, float]]:
        """The finite points."""
        pairs = zip(self.x, self.y, strict=False)
        return [(x, _tame(y)) for x, y in pairs if 0 <= x < 1e12 and math.isfinite(y)]


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    y: float


@dataclass(frozen=True)
class Axis:
    """A range with round ticks in it."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where on the axis, 0 to 1; what is outside lies on the end."""
        low, high = self._scale(self.low), self._scale(self.high)
        return min(max((self._scale(value) - low) / (high - low), 0.0), 1.0)

    def _scale(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value


def plot(
    paper: Paper,
    series: Sequence[Series],
    *,
    levels: Sequence[Level] = (),
    height: int = 9,
    log: bool | None = None,
    indent: int = 2,
) -> list[Text]:
    """The lines of a plot no wider than the paper: curves, axes, and a legend if there is more than one thing to name.

    `log=None` chooses the scale of the vertical axis. Empty if there is nothing finite to draw.
    """
    curves = [one.points() for one in series]
    points = [point for curve in curves for point in curve]
    if not points:
        return []
    heights = [y for _, y in points]
    logarithmic = spans_decades(heights) if log is None else log and max(heights) > 0
    shown = [level for level in levels if math.isfinite(level.y) and not (logarithmic and level.y <= 0)]
    y_axis = (log_axis if logarithmic else linear_axis)([*heights, *(_tame(level.y) for level in shown)])
    x_axis = whole_axis([x for x, _ in points])

    labels = {height - 1 - round(y_axis.place(tick) * (height - 1)): short(tick) for tick in y_axis.ticks}
    margin = indent + max(map(len, labels.values())) + 1
    room = 1 + len(",".join(str(index + 1) for index in range(len(series)))) if len(series) > 1 else 0
    columns = max(min(paper.width - margin - 2 - room, MAX_COLUMNS), 4)
    layers = [_line(curve, x_axis, y_axis, columns, height) for curve in curves]
    layers += [_dashes(y_axis.place(_tame(level.y)), columns, height) for level in shown]
    marks = _marks(curves, y_axis, height) if len(series) > 1 else {}

    lines = []
    for row in range(height):
        tick = labels.get(row, "")
        edge = ("+" if tick else "|") if paper.ascii else ("┤" if tick else "│")
        line = paper.words((f"{tick:>{margin - 1}} {edge}", "dim"))
        for column in range(columns):
            stack = [layer[row][column] for layer in layers]
            owner = next((i for i, dots in enumerate(stack) if dots), None)
            style = "" if owner is None else COLORS[owner % len(COLORS)] if owner < len(series) else "dim"
            line.append(_glyph(stack, paper.ascii), style or None)
        for place, owner in enumerate(marks.get(row, ())):
            line.append("," if place else " ").append(str(owner + 1), COLORS[owner % len(COLORS)])
        lines.append(line)
    lines += _below(paper, x_axis, margin, columns)
    if len(series) + len(levels) > 1:
        lines += _legend(paper, series, levels, shown, margin + 1)
    return lines


def linear_axis(values: Sequence[float]) -> Axis:
    """An axis between round numbers, from zero if the values are not negative and reach well down."""
    low, high = min(values), max(values)
    if high - low <= abs(high) * 1e-6:
        room = abs(high) or 1.0
        low, high = low - room, high + room
    if 0 <= low < high / 2:
        low = 0.0
    step = _round_step(low, high)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], False, ticks)


def whole_axis(values: Sequence[float]) -> Axis:
    """An axis over counts such as steps; its ends are the first ticks, then the round numbers between."""
    low, high = min(values), max(values)
    if high <= low:
        return Axis(low - 0.5, low + 0.5, False, (low,))
    step = max(_round_step(low, high), 1.0)
    between = (math.ceil(low / step) * step + index * step for index in range(6))
    return Axis(low, high, False, (low, high, *(tick for tick in between if tick < high)))


def log_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis over the positive values, between powers of ten, with at most six ticks."""
    positive = [value for value in values if value > 0]
    first = math.floor(math.log10(min(positive)) + 1e-9)
    last = max(math.ceil(math.log10(max(positive)) - 1e-9), first + 1)
    every = math.ceil((last - first) / 5)
    return Axis(10.0**first, 10.0**last, True, tuple(10.0**power for power in range(first, last + 1, every)))


def spans_decades(values: Sequence[float]) -> bool:
    """Whether values are best seen on a logarithmic axis."""
    low, high = quantile(values, 0.1), quantile(values, 0.9)
    return low > 0 and high / low >= LOG_RATIO


def _tame(value: float) -> float:
    return 0.0 if abs(value) < 1 / LARGEST else min(max(value, -LARGEST), LARGEST)


def _round_step(low: float, high: float) -> float:
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _line(
    curve: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis, columns: int, height: int
) -> list[list[int]]:
    """The braille dots, one byte for each cell, of a curve."""
    canvas = _canvas(columns, height)
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in curve]
    for start, end in zip(places, places[1:] or places, strict=False):
        canvas.line(*start, *end)
    return _cells(canvas)


def _dashes(place: float, columns: int, height: int) -> list[list[int]]:
    canvas = _canvas(columns, height)
    for dot in range(0, 2 * columns, 4):
        canvas.point(dot / (2 * columns - 1), place)
    return _cells(canvas)


def _canvas(columns: int, height: int) -> Any:
    from plotille import Canvas  # type: ignore[import-untyped]

    # The canvas takes its upper limits as excluded; with these, 1.0 is the last dot.
    return Canvas(columns, height, 0, 0, 2 * columns / (2 * columns - 1), 4 * height / (4 * height - 1))


def _cells(canvas: Any) -> list[list[int]]:
    return [[ord(character) - 0x2800 for character in row] for row in canvas.plot("\n").split("\n")]


def _marks(curves: Sequence[Sequence[tuple[float, float]]], y_axis: Axis, height: int) -> dict[int, list[int]]:
    """Row -> the curves that end in it: their numbers stand to the right of it, so that curves can be told apart without
    colour, and a number is not taken for a point."""
    marks: dict[int, list[int]] = {}
    for index, curve in enumerate(curves):
        if curve:
            row = height - 1 - round(y_axis.place(curve[-1][1]) * (4 * height - 1)) // 4
            marks.setdefault(row, []).append(index)
    return marks


def _glyph(stack: Sequence[int], ascii: bool) -> str:
    dots = 0
    for layer in stack:
        dots |= layer
    if not dots:
        return " "
    if not ascii:
        return chr(0x2800 + dots)
    left = [row for row, bit in enumerate((0, 1, 2, 6)) if dots >> bit & 1]
    right = [row for row, bit in enumerate((3, 4, 5, 7)) if dots >> bit & 1]
    rows = {*left, *right}
    if len(rows) > 2:
        slope = sum(right) / len(right) - sum(left) / len(left) if left and right else 0
        return "/" if slope < -0.5 else "\\" if slope > 0.5 else "|"
    middle = sum(rows) / len(rows)
    return "'" if middle < 1 else "-" if middle <= 2 else "." if middle < 3 else "_"


def _below(paper: Paper, axis: Axis, margin: int, columns: int) -> list[Text]:
    """The horizontal axis and its numbers; one that would touch another is left out."""
    rule, names = ["-" if paper.ascii else "─"] * columns, [" "] * columns
    for tick in axis.ticks:
        column = round(axis.place(tick) * (columns - 1))
        text = short(tick)
        start = min(max(column - len(text) // 2, 0), columns - len(text))
        if start >= 0 and not "".join(names[max(start - 2, 0) : start + len(text) + 2]).strip():
            rule[column] = "+" if paper.ascii else "┬"
            names[start : start + len(text)] = text
    below = " " * (margin + 1) + "".join(names).rstrip()
    corner = "+" if paper.ascii else "└"
    return [paper.words((" " * margin + corner + "".join(rule), "dim")), paper.words((below, "dim"))]


def _legend(
    paper: Paper, series: Sequence[Series], levels: Sequence[Level], shown: Sequence[Level], margin: int
) -> list[Text]:
    dashes = ". . ." if paper.ascii else "⠄⠄⠄"
    entries = [
        paper.words((f"{index + 1} ", COLORS[index % len(COLORS)]), one.name)
        for index, one in enumerate(series)
        if len(series) > 1
    ]
    for level in levels:
        value = short(level.y)
        entries.append(
            paper.words((f"{dashes} ", "dim"), f"{level.name} {value}")
            if level in shown
            else paper.words(f"{level.name} {value} (off the scale)")
        )
    lines: list[Text] = []
    for entry in entries:
        if lines and lines[-1].cell_len + 3 + entry.cell_len <= paper.width:
            lines[-1].append("   ").append(entry)
        else:
            start = paper.words(" " * min(margin, 8))
            lines.append(start.append(entry))
    return lines
