"""Which pictures a report gives. A measurement that is absent or has another shape than expected leaves its picture out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabcheck.renderers.html.charts import Figure, curves, heat, profile
from stabcheck.renderers.pictures import loss_levels, one_batch_curves, rate_curves
from stabcheck.renderers.plots import Series
from stabcheck.renderers.text import as_records, numbers
from stabcheck.stats import number

if TYPE_CHECKING:
    from stabcheck.report import Report

MOST_LAYERS = 60
"""Rows of one picture; measurements that come without a limit of their own are cut there."""


def figures_of(report: Report) -> list[Figure]:
    """The pictures, those of the whole run before those of single layers."""
    measured = {check.id: check.measurements for check in report.checks}
    gradients = measured.get("gradient-norms", {})
    drawn = [
        _rates(measured.get("lr-schedule", {})),
        _trial(_mapping(gradients.get("trial"))),
        _one_batch(measured.get("one-batch-overfit", {})),
        _totals(gradients),
        _heat(_mapping(gradients.get("by_layer"))),
        _activations(_mapping(measured.get("vanishing-gradients", {}).get("activations"))),
        _dead(measured.get("dying-relu", {})),
        _updates(_mapping(gradients.get("updates"))),
    ]
    return [figure for figure in drawn if figure is not None]


def _rates(measured: Mapping[str, Any]) -> Figure | None:
    title, series = rate_curves(measured)
    return curves(title, series, y="learning rate")


def _trial(measured: Mapping[str, Any]) -> Figure | None:
    series = [Series("loss", numbers(measured.get("steps")), numbers(measured.get("losses")))]
    return curves("Loss in the trial", series, loss_levels(measured), y="loss")


def _one_batch(measured: Mapping[str, Any]) -> Figure | None:
    series = one_batch_curves(_mapping(measured.get("curves")))
    return curves("Loss when training on one batch only", series, loss_levels(measured), y="loss")


def _totals(measured: Mapping[str, Any]) -> Figure | None:
    total, clipped = numbers(measured.get("total")), numbers(measured.get("clipped"))
    steps = numbers(measured.get("steps")) or [float(index) for index in range(len(total))]
    series = [Series("norm", steps, total)]
    if any(a != b for a, b in zip(total, clipped, strict=False) if math.isfinite(a) and math.isfinite(b)):
        series = [Series("before clipping", steps, total), Series("after clipping", steps, clipped)]
    return curves("Gradient norm of all parameters together", series, y="norm")


def _heat(measured: Mapping[str, Any]) -> Figure | None:
    layers, rows = measured.get("layers"), measured.get("norms")
    steps = numbers(measured.get("steps"))
    if not isinstance(layers, list) or not isinstance(rows, list) or not steps:
        return None
    found = [
        (str(name), values)
        for name, row in zip(layers, rows, strict=False)
        if len(values := numbers(row)) == len(steps)
    ]
    if not found:
        return None
    about = f"The first layer is at the top{_of(measured, found)}; what is blank is zero, not finite or not there."
    return heat("Gradient norm by layer and step", [name for name, _ in found], steps, [row for _, row in found], about)


def _activations(measured: Mapping[str, Any]) -> Figure | None:
    columns = {"first step": measured.get("first"), "last step": measured.get("last")}
    about = "Root mean square of what each layer gives, from the first layer at the top to the last{of}."
    return _profile("Activations by depth", measured, columns, x="root mean square", about=about)


def _dead(measured: Mapping[str, Any]) -> Figure | None:
    """None too where no unit is dead: an empty picture tells less than the checklist does."""
    rows = [row for row in as_records(measured.get("layers")) if number(row.get("dead")) is not None][:MOST_LAYERS]
    if not rows:
        return None
    names = [str(row.get("module") or "") for row in rows]
    columns = {
        name: [100 * value for value in numbers([row.get(key) for row in rows])]
        for name, key in (("at the start", "dead_at_start"), ("at the end", "dead"))
    }
    if not any(map(any, columns.values())):
        return None
    about = "Units behind each ReLU or the like that fire for no input, in order of execution."
    return profile("Dead units by depth", names, columns, x="dead units in %", about=about)


def _updates(measured: Mapping[str, Any]) -> Figure | None:
    columns = {"median": measured.get("median"), "largest": measured.get("largest")}
    about = "How far one step of the optimizer moves the weights of a layer, over their norm{of}."
    return _profile("Update-to-weight ratio by layer", measured, columns, x="update over weight", about=about)


def _profile(
    title: str, measured: Mapping[str, Any], columns: Mapping[str, Any], *, x: str, about: str
) -> Figure | None:
    layers = measured.get("layers")
    found = {name: numbers(column) for name, column in columns.items()}
    if not isinstance(layers, list) or not layers or any(len(column) != len(layers) for column in found.values()):
        return None
    if not any(math.isfinite(value) for column in found.values() for value in column):
        return None
    return profile(title, [str(layer) for layer in layers], found, x=x, about=about.format(of=_of(measured, layers)))


def _of(measured: Mapping[str, Any], shown: Sequence[object]) -> str:
    whole = number(measured.get("layers_in_all"))
    return f" ({len(shown)} of {whole:.0f} layers)" if whole is not None and len(shown) < whole < math.inf else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
