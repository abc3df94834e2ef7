"""What a picture of the trial needs, small enough for a report: courses over steps and profiles over layers.

A layer is a module with parameters of its own, in model order; "" is the model itself. Where there are more steps or layers
than a picture can show, evenly spaced ones are kept, with the first and the last. Numbers have three digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stabcheck import stats
from stabcheck.recording import Parameter, Recording

MOST_POINTS = 200
"""Points of a curve: a picture is not wider than some hundred pixels."""
MOST_CELLS = 60
"""Layers, and steps of a table by layer and step, so that they add no more than 100 kB to the report of a very deep model."""


def trial(recording: Recording) -> dict[str, Any]:
    """Loss of each step with the levels that tell what it is worth; the largest losses are never thinned out."""
    losses = [step.loss for step in recording.steps]
    peak = max(
        (i for i, loss in enumerate(losses) if loss is not None and math.isfinite(loss)),
        key=lambda i: losses[i] or 0.0,
        default=0,
    )
    rows = sorted({*spaced(len(losses), MOST_POINTS - 1), *([peak] if losses else [])})
    return {
        "steps": [recording.steps[row].index for row in rows],
        "losses": [_three(losses[row], digits=6) for row in rows],
        "constant": recording.yardsticks.constant,
        "oracle": recording.yardsticks.oracle,
    }


def gradients(recording: Recording) -> dict[str, Any]:
    """Norm of the gradient of each layer's parameters together, as backward left it: a row for each layer, a column for
    each step; None where there was no gradient. `layers_in_all` counts those that had one."""
    found = {
        name: rows
        for name, rows in _layers(recording.parameters).items()
        if any(value is not None for p in rows for value in p.grad_norm)
    }
    names, columns = list(found), spaced(len(recording.steps), MOST_CELLS)
    kept = [names[i] for i in spaced(len(names), MOST_CELLS)]
    return {
        "steps": [recording.steps[column].index for column in columns],
        "layers": kept,
        "layers_in_all": len(names),
        "norms": [[_three(stats.joint_norm([p.grad_norm[c] for p in found[name]])) for c in columns] for name in kept],
    }


def updates(recording: Recording) -> dict[str, Any]:
    """How far one step of the optimizer moves a layer's weights, over their norm: median and largest of the sampled steps.
    Parameters of one axis (biases, norms' scales) begin at or near zero and are left out."""
    names, medians, largest = [], [], []
    for name, rows in _layers(p for p in recording.parameters if len(p.shape) >= 2).items():
        ratios = []
        for sample in range(len(recording.sampled)):
            weight, update = (stats.joint_norm([v[sample] for v in of]) for of in _norms(rows))
            if weight and update is not None and math.isfinite(weight) and math.isfinite(update):
                ratios.append(update / weight)
        if ratios:
            names.append(name)
            medians.append(_three(stats.median(ratios)))
            largest.append(_three(max(ratios)))
    kept = spaced(len(names), MOST_CELLS)
    return {
        "layers": [names[i] for i in kept],
        "layers_in_all": len(names),
        "median": [medians[i] for i in kept],
        "largest": [largest[i] for i in kept],
    }


def activations(recording: Recording) -> dict[str, Any]:
    """Root mean square of each layer's output in order of execution, at the first and at the last sampled step."""
    rows = [signal for signal in recording.signals if any(value is not None for value in signal.out_rms)]
    kept = [rows[i] for i in spaced(len(rows), MOST_CELLS)]
    return {
        "layers": [signal.module for signal in kept],
        "layers_in_all": len(rows),
        "first": [_three(signal.out_rms[0]) for signal in kept],
        "last": [_three(signal.out_rms[-1]) for signal in kept],
    }


def spaced(count: int, most: int) -> list[int]:
    """All of range(count), or `most` of them, evenly, with both ends."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _layers(parameters: Any) -> dict[str, list[Parameter]]:
    found: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        found.setdefault(parameter.module, []).append(parameter)
    return found


def _norms(rows: Sequence[Parameter]) -> tuple[list[tuple[float | None, ...]], list[tuple[float | None, ...]]]:
    return [p.weight_norm for p in rows], [p.update_norm for p in rows]


def _three(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")
