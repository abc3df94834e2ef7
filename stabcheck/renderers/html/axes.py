"""The frames of pictures: colours, axes, legends and sizes, as plotly knows them.

Colours of text and grid are left to the style sheet, which knows whether the page is light, dark or on paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stabcheck.renderers.text import clean

COLORS = ("#3987e5", "#d9731a", "#a35cc9", "#2f9e6e", "#d9485f", "#8a7a2b")
"""Told apart by people who are colour-blind, and legible on white and on black."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
LEVEL = "#8b949e"

ROW, MARGINS, LEGEND = 20, 110, 20
"""Height of a layer's row, of everything around the rows, and of a line of the legend."""

TALL = 720
"""Height from which on rows become narrower, down to NARROW, so that a picture still fits a screen."""
NARROW = 12

LAST = 1e12
"""No run has a step beyond."""

Trace = dict[str, Any]


def unique(layers: Sequence[str]) -> list[str]:
    """Names for the rows of a picture, each once. plotly reads a few tags in names, so there are no angle brackets."""
    seen: dict[str, int] = {}
    names = []
    for layer in layers:
        name = clean(layer).replace("<", "‹").replace(">", "›") or "(the model)"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def framed(**more: Any) -> dict[str, Any]:
    """A layout with what all pictures have in common."""
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


def fitting(names: Sequence[str]) -> int:
    """The height in pixels of a picture with a row for each name."""
    rows = max(len(names), 4)
    return MARGINS + rows * (ROW if rows * ROW <= TALL else max(NARROW, TALL // rows))


def wall(step: float) -> Trace:
    """A line where values stop being finite."""
    line = {"color": COLORS[4], "width": 1, "dash": "dash"}
    label = {"text": "not finite", "textposition": "middle", "font": {"color": COLORS[4], "size": 11}}
    return {"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "yref": "paper", "line": line, "label": label}


def scale(values: Sequence[float], log: bool) -> dict[str, Any]:
    """A linear axis, or a logarithmic one with a tick at every power of ten, or at every second and so on."""
    if not log:
        return {"type": "linear", "exponentformat": "e"}
    there = [math.log10(value) for value in values if value > 0]
    return {"type": "log", "exponentformat": "e", "dtick": math.ceil((max(there) - min(there)) / 6)}


def layer_axis(names: Sequence[str]) -> dict[str, Any]:
    """The first layer is at the top."""
    return {
        "type": "category",
        "range": [len(names) - 0.5, -0.5],
        "tickfont": {"size": 12 if len(names) * ROW <= TALL else 10},
        "tickmode": "array",
        "tickvals": list(names),
        "ticktext": list(names),
        "ticks": "",
    }
