"""Measurements of two reports that differ by more than runs of one and the same set-up do.

The same commit with the same seed gives the same numbers, to the last bit on one machine. But a harmless change of the code
shifts the random numbers that follow, so the yardstick is what differs between *seeds*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stabcheck import stats
from stabcheck.report import CheckResult, Report
from stabcheck.stats import number

Unit = Literal["number", "share", "seconds"]

LOSS_CHANGE = 0.4
"""Change of the loss at the start, in shares of the largest of both and of the losses of the best constant guess. Between seeds
it was 0.28 at most, in 74 pairs of runs of 31 healthy set-ups (two to four seeds of model, batches and trial each)."""

LAYER_FACTOR = 4.0
"""Change of a layer's gradient norm against the norm of all gradients together. Between seeds it was 2.01 at most, over 577
pairs of layers of the same runs; twice that, as a report names every layer that moved."""

TOTAL_FACTOR = 2.5
"""Change of the norm of all gradients together, the median over the trial. Between seeds it was 1.37 at most."""

NEGLIGIBLE = 1e-3
"""Share of the whole gradient below which a layer's is as good as none: the rounding noise of a bias before a normalisation
may well change tenfold."""

DEAD_CHANGE = 0.4
"""Change of the share of silent units in a layer. Between seeds it was 0.17 at most in layers that learn, and 0.35 in a frozen
one that was trained on other data, over 41 pairs of layers."""

FEWEST_UNITS = 3
"""Units by which the number of silent ones must change besides, as in a narrow layer one unit is a large share."""

RATE_FACTOR = 4.0
"""Change of the largest stable learning rate. Between seeds it was 2.0 at most, in
12 pairs of runs of 4 set-ups: twice that."""

SHARE_CHANGE = 0.4
"""Change of a share in the evidence of a finding, such as that of the validation samples which training has too: that of
silent units, the share that differs most between seeds, changes by less."""

COUNT_FACTOR = 4.0
"""Change of a count in the evidence of a finding. The counts are of samples, units and the like, and differ less between
seeds than gradients of single layers do, whose factor this is."""

COUNTS = ("count", "rows")
"""Keys of evidence that say how often a fault was found; other numbers are places, settings, or either way bad."""

TIME_FACTOR = 2.0
"""A check, or all together, must take more than twice as long: other work on the machine makes it take up to that."""

LEAST_TIME = 2.0
"""Seconds that must have been added besides; below, starting up and caches decide."""


@dataclass(frozen=True)
class Movement:
    """One number that moved."""

    what: str
    where: str | None
    """A layer or check; None where it is the whole run's."""
    check: str
    """The check that measured it; "" for the time of all."""
    unit: Unit
    old: float
    new: float

    @property
    def factor(self) -> float | None:
        """New over old; None where that says nothing."""
        if self.unit == "share" or not self.old or not math.isfinite(self.old):
            return None
        factor = self.new / self.old
        return factor if 0 < factor < math.inf else None


def moved(old: Report, new: Report) -> tuple[Movement, ...]:
    """What moved, in the order: loss, gradients, silent units, rates, time. Within each the largest movement comes first.

    What is measured over the trial is compared only between trials of equal length.
    """
    before, after = ({check.id: check for check in report.checks} for report in (old, new))
    pairs = {id: (_measurements(before.get(id)), _measurements(after.get(id))) for id in {*before, *after}}

    def of(id: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return pairs.get(id, ({}, {}))

    # Later steps have other gradients: in forty instead of twenty a layer's share was up to five times as large.
    alike = old.environment.get("steps") == new.environment.get("steps")
    return (
        *_loss(*of("exploding-gradients")),
        *(_gradients(*of("gradient-norms")) if alike else ()),
        *(_silent_units(*of("dying-relu")) if alike else ()),
        *_stable_rate(*of("learning-rate")),
        *_time(before, after),
    )


def extent(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Unit, float, float]]:
    """(key, unit, old, new) of what says in both evidences how far a fault goes, and is far from what it was."""
    for key in new:
        a, b = number(old.get(key)), number(new[key])
        if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
            continue
        if key == "share" and abs(a - b) > SHARE_CHANGE:
            yield key, "share", a, b
        elif key in COUNTS and _by_factor(a, b, COUNT_FACTOR):
            yield key, "number", a, b


def value_of(unit: Unit, value: float) -> str:
    """A number of a movement in words."""
    if unit == "share":
        return "<0.1%" if 0 < value < 0.001 else f"{value:.0%}" if value >= 0.01 or value == 0 else f"{value:.1%}"
    return f"{value:,.4g}"


def _measurements(check: CheckResult | None) -> Mapping[str, Any]:
    return check.measurements if check is not None else {}


def _loss(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Movement]:
    a, b = number(old.get("first_loss")), number(new.get("first_loss"))
    if a is None or b is None:
        return
    # A loss such as a likelihood of counts has its zero anywhere; the best constant guess says how large its numbers are.
    constants = (number(one.get("constant_loss")) for one in (old, new))
    scale = max(abs(x) for x in (a, b, *constants) if x is not None and (math.isfinite(x) or x in (a, b)))
    if _finiteness_differs(a, b) or abs(a - b) > LOSS_CHANGE * scale:
        yield Movement("loss at the start", None, "exploding-gradients", "number", a, b)


def _gradients(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Movement]:
    a, b = (_median(one.get("total")) for one in (old, new))
    if a is None or b is None:
        return
    if _by_factor(a, b, TOTAL_FACTOR):
        yield Movement("gradient norm of the whole model", None, "gradient-norms", "number", a, b)
    if not (0 < a < math.inf and 0 < b < math.inf):
        return
    before, after = _profile(old, a), _profile(new, b)
    found = [
        Movement("share of the gradient", layer, "gradient-norms", "share", before[layer], after[layer])
        for layer in before
        if layer in after and _by_factor(max(before[layer], NEGLIGIBLE), max(after[layer], NEGLIGIBLE), LAYER_FACTOR)
    ]
    yield from sorted(found, key=lambda one: -abs(math.log(max(one.new, NEGLIGIBLE) / max(one.old, NEGLIGIBLE))))


def _median(values: object) -> float | None:
    found = [value for item in values if (value := number(item)) is not None] if isinstance(values, list) else []
    # A step that overflowed is the largest; NaN has no place in an order.
    return stats.median(value if math.isfinite(value) else math.inf for value in found) if found else None


def _profile(measured: Mapping[str, Any], total: float) -> dict[str, float]:
    """Module -> the norm of its own parameters' gradients, each the median over the trial, over `total`."""
    squares: dict[str, float] = {}
    for row in _rows(measured.get("parameters")):
        norm, name = number(row.get("median")), row.get("name")
        if isinstance(name, str) and norm is not None and math.isfinite(norm):
            module = name.rpartition(".")[0] or name
            squares[module] = squares.get(module, 0.0) + norm * norm
    return {module: math.sqrt(square) / total for module, square in squares.items()}


def _silent_units(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Movement]:
    before = {_call(row): row for row in _rows(old.get("layers"))}
    found = []
    for row in _rows(new.get("layers")):
        was = before.get(_call(row), {})
        a, b, units = number(was.get("dead")), number(row.get("dead")), number(row.get("units"))
        if a is None or b is None or units is None or was.get("units") != row.get("units"):
            continue
        if abs(a - b) > DEAD_CHANGE and abs(a - b) * units >= FEWEST_UNITS:
            found.append(Movement("silent units", _name_of_call(row), "dying-relu", "share", a, b))
    yield from sorted(found, key=lambda one: -abs(one.new - one.old))


def _call(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("module")), str(row.get("call"))


def _name_of_call(row: Mapping[str, Any]) -> str:
    call = number(row.get("call"))
    place = str(row.get("module") or "the model's forward")
    return f"{place} (call {int(call) + 1})" if call else place


def _stable_rate(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Movement]:
    a, b = number(old.get("largest_stable_rate")), number(new.get("largest_stable_rate"))
    if a is not None and b is not None and _by_factor(a, b, RATE_FACTOR):
        yield Movement("largest stable learning rate", None, "learning-rate", "number", a, b)


def _time(before: Mapping[str, CheckResult], after: Mapping[str, CheckResult]) -> Iterator[Movement]:
    both = [id for id in after if id in before and "skip" not in (before[id].status, after[id].status)]
    times = [(None, sum(before[id].duration_s for id in both), sum(after[id].duration_s for id in both))]
    rows = [*times, *((id, before[id].duration_s, after[id].duration_s) for id in both)]
    for id, a, b in sorted(rows, key=lambda row: row[0] is not None):
        if b > TIME_FACTOR * a and b - a > LEAST_TIME:
            yield Movement("time of all checks" if id is None else "time", id, id or "", "seconds", a, b)


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _by_factor(a: float, b: float, factor: float) -> bool:
    """Whether one is more than `factor` times the other."""
    if _finiteness_differs(a, b):
        return True
    if not (math.isfinite(a) and math.isfinite(b)):
        return False
    low, high = sorted((abs(a), abs(b)))
    return a * b < 0 or high > factor * low


def _finiteness_differs(a: float, b: float) -> bool:
    return not (math.isfinite(a) and math.isfinite(b)) and str(a) != str(b)
