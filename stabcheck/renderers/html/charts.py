"""Kinds of pictures as plotly figures, made of plain dictionaries: curves, profiles over layers, and a table of colours.

Colours of text and grid are left to the style sheet, which knows whether the page is light, dark or on paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stabcheck.reading import called
from stabcheck.renderers.plots import Level, Series, spans_decades
from stabcheck.renderers.text import clean, short

COLORS = ("#3987e5", "#d9731a", "#a35cc9", "#2f9e6e", "#d9485f", "#8a7a2b")
"""Told apart by people who are colour-blind, and legible on white and on black."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

LEVEL = "#8b949e"
ROWS = 12
"""Of a curve's numbers, in the table beneath it."""

ROW, MARGINS = 20, 110
"""Height of a layer's row, and of everything around the rows."""

Trace = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A picture: as plotly draws it, in a sentence, and as a table."""

    title: str
    caption: str
    traces: list[Trace]
    layout: dict[str, Any]
    header: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]


def curves(
    title: str, series: Sequence[Series], levels: Sequence[Level] = (), *, y: str, about: str = ""
) -> Figure | None:
    """Values over steps, with levels to compare with; None if nothing is finite."""
    drawn = [(one, one.points()) for one in series]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return None
    heights = [height for _, points in drawn for _, height in points]
    log = spans_decades(heights)
    ends = min(points[0][0] for _, points in drawn), max(points[-1][0] for _, points in drawn)
    shown = [level for level in levels if math.isfinite(level.y) and not (log and level.y <= 0)]
    traces = [
        {
            "type": "scatter",
            "mode": "lines" if len(points) > 1 else "markers",
            "name": clean(one.name),
            "x": [point[0] for point in points],
            "y": [point[1] for point in points],
            "line": {"color": COLORS[i % len(COLORS)], "dash": DASHES[i % len(DASHES)], "width": 2},
            "hovertemplate": "%{y:.4g}",
        }
        for i, (one, points) in enumerate(drawn)
    ]
    traces += [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{level.name} {short(level.y)}",
            "x": list(ends),
            "y": [level.y, level.y],
            "line": {"color": LEVEL, "dash": "dot", "width": 2},
            "hoverinfo": "skip",
        }
        for level in shown
    ]
    layout = _layout(
        xaxis={"title": {"text": "step"}, "rangemode": "tozero", "spikethickness": 1, "spikecolor": LEVEL},
        yaxis={"title": {"text": y}, **_scale(heights, log)},
        hovermode="x unified",
        showlegend=len(traces) > 1,
        height=340,
    )
    caption = " ".join([about, *(_course(one, points, len(drawn) > 1) for one, points in drawn)]).strip()
    unseen = [one.name for one, points in drawn if len(points) < len(one.y)]
    if unseen:
        caption += f" Not every value is finite: {', '.join(unseen)} has gaps."
    return Figure(title, caption, traces, layout, *_numbers(drawn))


def profile(title: str, layers: Sequence[str], columns: Mapping[str, Sequence[float]], *, x: str, about: str) -> Figure:
    """One value or more for each layer, from the first layer at the top to the last; shares are drawn as bars."""
    names = unique(layers)
    values = [value for column in columns.values() for value in column if math.isfinite(value)]
    share = x.endswith("%")
    positive = [value for value in values if value > 0]
    log = not share and bool(positive) and spans_decades(positive)
    traces = []
    for i, (name, column) in enumerate(columns.items()):
        trace: Trace = {
            "name": name,
            "x": [value if math.isfinite(value) and not (log and value <= 0) else None for value in column],
            "y": names,
            "hovertemplate": "%{y}: %{x:.3g}" + ("%" if share else ""),
        }
        color = COLORS[i % len(COLORS)]
        if share:
            trace |= {"type": "bar", "orientation": "h", "marker": {"color": color}}
        else:
            symbol = ("circle", "diamond-open", "square")[i % 3]
            trace |= {
                "type": "scatter",
                "mode": "lines+markers",
                "marker": {"color": color, "symbol": symbol, "size": 8},
            }
            trace["line"] = {"color": color, "width": 1, "dash": DASHES[i % len(DASHES)]}
        traces.append(trace)
    xaxis: dict[str, Any] = {"title": {"text": x}, **_scale(values, log)}
    if share:
        xaxis["range"] = [0, 100]
    else:
        xaxis["rangemode"] = "tozero"
    layout = _layout(
        xaxis=xaxis,
        yaxis=_layer_axis(names),
        showlegend=len(traces) > 1,
        hovermode="closest",
        barmode="group",
        height=MARGINS + (ROW + 6 * share) * max(len(names), 4),
    )
    if log and len(positive) < len(values):
        about += " What is zero is left out."
    said = [_extremes(name, column, names, "%" if share else "") for name, column in columns.items()]
    rows = [(name, *(_cell(column[i]) for column in columns.values())) for i, name in enumerate(names)]
    return Figure(title, " ".join([about, *said]), traces, layout, ("layer", *columns), rows)


def heat(
    title: str, layers: Sequence[str], steps: Sequence[float], norms: Sequence[Sequence[float]], about: str
) -> Figure:
    """Norms by layer and step as colours on a logarithmic scale; what is zero or not finite stays blank."""
    names = unique(layers)
    logs = [[math.log10(v) if math.isfinite(v) and v > 0 else None for v in row] for row in norms]
    there = [(v, i, j) for i, row in enumerate(norms) for j, v in enumerate(row) if math.isfinite(v) and v > 0]
    low, high = (math.log10(pick(there)[0]) for pick in (min, max)) if there else (0.0, 0.0)
    powers = list(range(math.ceil(low), math.floor(high) + 1))
    powers = powers[:: max(1, math.ceil(len(powers) / 6))]
    bar: dict[str, Any] = {"orientation": "h", "y": 1, "yanchor": "bottom", "thickness": 12, "len": 1}
    if len(powers) >= 2:
        bar |= {"tickvals": powers, "ticktext": [f"1e{p}" for p in powers]}
    else:
        bar |= {"tickvals": [low, high], "ticktext": [short(10**low), short(10**high)]}
    trace = {
        "type": "heatmap",
        "x": list(steps),
        "y": names,
        "z": logs,
        "customdata": [[short(v) for v in row] for row in norms],
        "colorscale": "Viridis",
        "colorbar": bar,
        "hoverongaps": False,
        "hovertemplate": "%{y}, step %{x}: %{customdata}<extra></extra>",
    }
    layout = _layout(
        xaxis={"title": {"text": "step"}},
        yaxis=_layer_axis(names),
        height=MARGINS + 20 + ROW * max(len(names), 4),
    )
    if there:
        (least, i, j), (most, k, n) = min(there), max(there)
        about += f" Largest {short(most)} at {called(names[k])} in step {short(steps[n])}, smallest {short(least)} "
        about += f"at {called(names[i])} in step {short(steps[j])}."
    rows = [(name, _cell(row[0]), _cell(row[-1])) for name, row in zip(names, norms, strict=True)]
    return Figure(title, about, [trace], layout, ("layer", "first step", "last step"), rows)


def unique(layers: Sequence[str]) -> list[str]:
    """Names for the rows of a picture, each once. plotly reads a few tags in names, so there are no angle brackets."""
    seen: dict[str, int] = {}
    names = []
    for layer in layers:
        name = clean(layer).replace("<", "‹").replace(">", "›") or "(the model)"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _layout(**more: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(128,128,128,0.08)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 8, "r": 12, "t": 24, "b": 8},
        "hoverlabel": {"bgcolor": "#24292f", "bordercolor": "#8b949e", "font": {"color": "#ffffff"}},
        "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8b949e", "activecolor": COLORS[0]},
        "autosize": True,
    }
    for key in ("xaxis", "yaxis"):
        more[key] = {"automargin": True, "zeroline": False, **more[key]}
    return {**common, **more}


def _scale(values: Sequence[float], log: bool) -> dict[str, Any]:
    """A linear axis, or a logarithmic one with a tick at every power of ten, or at every second and so on."""
    if not log:
        return {"type": "linear", "exponentformat": "e"}
    there = [math.log10(value) for value in values if value > 0]
    return {"type": "log", "exponentformat": "e", "dtick": math.ceil((max(there) - min(there)) / 6)}


def _layer_axis(names: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "category",
        "autorange": "reversed",
        "tickmode": "array",
        "tickvals": list(names),
        "ticktext": list(names),
        "ticks": "",
    }


def _course(one: Series, points: Sequence[tuple[float, float]], named: bool) -> str:
    (start, first), (end, last) = points[0], points[-1]
    lowest, highest = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
    said = f"{short(first)} at step {short(start)}"
    for word, (step, value) in (("highest", highest), ("lowest", lowest)):
        if value not in (first, last):
            said += f", {word} {short(value)} at step {short(step)}"
    said += f", {short(last)} at step {short(end)}."
    return f"{_upper(one.name)}: {said}" if named else f"From {said}"


def _extremes(name: str, column: Sequence[float], names: Sequence[str], unit: str) -> str:
    found = [(value, i) for i, value in enumerate(column) if math.isfinite(value)]
    if not found:
        return f"{_upper(name)}: nothing finite."
    (least, i), (most, k) = min(found), max(found)
    if least == most:
        return f"{_upper(name)}: {short(most)}{unit} everywhere."
    return f"{_upper(name)}: most {short(most)}{unit} in {called(names[k])}, least {short(least)}{unit} in {called(names[i])}."


def _numbers(
    drawn: Sequence[tuple[Series, Sequence[tuple[float, float]]]],
) -> tuple[tuple[str, ...], Sequence[tuple[object, ...]]]:
    steps = sorted({x for _, points in drawn for x, _ in points})
    if len(steps) > ROWS:
        steps = [steps[round(i * (len(steps) - 1) / (ROWS - 1))] for i in range(ROWS)]
    known = [dict(points) for _, points in drawn]
    rows: Sequence[tuple[object, ...]] = [
        (short(step), *(short(values[step]) if step in values else "" for values in known)) for step in steps
    ]
    return ("step", *(one.name for one, _ in drawn)), rows


def _cell(value: float) -> str:
    return "" if math.isnan(value) else short(value)


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
