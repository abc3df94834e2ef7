"""Faults of a schedule that can be seen without asking in which unit it was sized."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stabcheck.trial.schedule.base_rate import overtaken
from stabcheck.trial.schedule.fault import Fault
from stabcheck.trial.schedule.pace import IDLE, TOLERANCE, length_of
from stabcheck.trial.schedule.rate_shape import (
    DEAD_TAIL,
    SPENT_EARLY,
    TURN,
    Rates,
    Shape,
    last_change,
    shape_of,
    valleys_of,
    varying,
)
from stabcheck.trial.schedule.simulation import Curve, Schedule
from stabcheck.trial.schedule.sizes import CYCLIC, parts

SPENT_AT_ONCE = 0.2
"""Spent before so little of the run, it is no schedule of this run: a rate that halves every thirtieth is spent at a third."""
FADED, LOW = 0.01, 0.5
"""Share of the range of all rates within which those of the rest of the run lie if the cycles have faded, and of the peak, below
which that is another rate than the one asked for."""
FADED_BY = 1 / 3
"""Share of the run after which cycles that halve each time may be that small: seven of them make it."""
CYCLE_SLACK = 0.02
"""Share of a rise by which the last cycle may be cut: rounded numbers of steps, a last partial batch."""
FAR = 5
"""Run lengths after which a first milestone is no longer that of a run which was shortened."""
AHEAD = 20_000
"""Calls beyond the planned end that are looked at to learn what the schedule was still going to do (about 50 ms)."""


def fault_of_course(schedule: Schedule | None, used: Rates, stride: int, calls: int, names: set[str]) -> Fault | None:
    """Faults that need no other unit to be seen."""
    groups = varying(used)
    if not groups:
        return _stays_low(schedule, used, calls) or _never_acts(schedule, used, calls) if schedule is not None else None
    others = any(used[0, g] > 0 and not last_change(used[:, g]) for g in range(used.shape[1]))
    shapes = [shape_of(used[:, g]) for g in groups]
    shape, length = shapes[0], len(used)
    if (
        length >= 10
        and not others
        and all(s.spent_at < SPENT_EARLY * length or s.dead_from < (1 - DEAD_TAIL) * length for s in shapes)
    ):
        begins = max(min(s.spent_at, s.dead_from) for s in shapes)
        dead = all(s.dead_from <= SPENT_EARLY * length + 1 for s in shapes) or begins <= SPENT_AT_ONCE * length
        return Fault("spent", {"call": begins * stride, "last": shape.last / shape.peak, "dead": dead})
    if schedule is not None and all(
        s.last >= (1 - 1e-6) * s.peak and s.last > s.first and not s.swings and not s.restarts for s in shapes
    ):
        return _still_rising(schedule, used, groups[0], calls)
    if schedule is not None and names & CYCLIC:
        return _fades(used, groups, stride)
    if schedule is not None:
        fault = overtaken(schedule, used, stride)
        if fault is not None:
            return fault
    if not names & CYCLIC and all(s.climb >= TURN or (s.swings and "CosineAnnealingLR" in names) for s in shapes):
        # Several cycles are meant if they come from no cosine that should end, or if the run ends where one of them does.
        meant = (shape.swings != 1 and "CosineAnnealingLR" not in names) or _ends_in_valley(
            schedule, shape, used, calls
        )
        first, top = shape.rises[0] if shape.rises else (shape.valley_at, len(used) - 1)
        facts = {"swings": shape.swings, "call": first * stride, "last": shape.last / shape.peak}
        again = float(used[top, groups[0]]) / shape.peak
        return None if meant else Fault("climbs", {**facts, "again": again})
    if schedule is not None and all(0.5 * s.peak < s.last < s.peak for s in shapes) and not names & CYCLIC:
        return _cut_short(schedule, groups, calls)
    return None


def _fades(used: Rates, groups: list[int], stride: int) -> Fault | None:
    """Cycles that get smaller each time, and are none any more for most of the run."""
    ends = []
    for group in groups:
        rates = used[:, group]
        floor, peak = float(rates[-1]), float(rates.max())
        away = np.flatnonzero(np.abs(rates - floor) > FADED * (peak - rates.min()))
        ends.append(int(away[-1]) + 1 if len(away) else 0)
        if floor > LOW * peak or ends[-1] > FADED_BY * len(rates) or not last_change(rates[ends[-1] :]):
            return None
    return Fault("fades", {"call": max(ends) * stride, "last": float(used[-1, groups[0]])})


def _ends_in_valley(schedule: Schedule | None, shape: Shape, used: Rates, calls: int) -> bool:
    """Whether a run of several cycles stops at the end of one, give or take `CYCLE_SLACK`: then its length was computed.

    A rate that is low at the end is not enough: a cosine of any length is low for a fifth of its time.
    """
    if schedule is None or not shape.rises:
        return shape.last / shape.peak < TOLERANCE
    valleys = valleys_of(schedule.curve(2 * calls).rates[:, varying(used)[0]])
    cycle = shape.rises[0][1] - shape.rises[0][0]
    return any(abs(at - (len(used) - 1)) <= max(1.0, CYCLE_SLACK * cycle) for at in valleys)


def _still_rising(schedule: Schedule, used: Rates, group: int, calls: int) -> Fault | None:
    ahead, stride = _ahead(schedule, group, calls)
    falls = np.flatnonzero(np.maximum.accumulate(ahead) - ahead > TURN * used[-1, group])
    ahead = ahead[: falls[0]] if len(falls) else ahead
    peak, first, reached = float(ahead.max()), float(used[0, group]), float(used[-1, group])
    grows = float(ahead[-1]) == peak > float(ahead[int(0.95 * len(ahead))])
    endless = grows or any(getattr(part, "gamma", 0) > 1 for part in parts(schedule.scheduler))
    floors = [float(part.eta_min) for part in parts(schedule.scheduler) if _floor_above_base(part)]
    if (endless or floors) and reached >= 1.5 * first:
        facts = {"first": first, "last": reached, "factor": reached / first if first > 0 else math.inf}
        return Fault("grows", {**facts, "floor": floors[0] if floors else None})
    if endless or reached >= (1 - TOLERANCE) * peak:
        return None
    needs = int(np.argmax(ahead >= (1 - 1e-6) * peak)) * stride
    return Fault("not-reached", {"first": first, "last": reached, "target": peak, "needs": needs})


def _floor_above_base(part: Any) -> bool:
    bases, floor = getattr(part, "base_lrs", []), getattr(part, "eta_min", None)
    return bool(bases) and isinstance(floor, (int, float)) and floor > max(bases) > 0


def _stays_low(schedule: Schedule, used: Rates, calls: int) -> Fault | None:
    """A rate that the scheduler keeps below the optimizer's own for the whole run, and would raise to it later."""
    for index, group in enumerate(schedule.optimizer.param_groups):
        base, low = float(group.get("initial_lr", 0.0)), float(used[0, index])
        if not 0 < low < (1 - TOLERANCE) * base:
            continue
        ahead, stride = _ahead(schedule, index, calls)
        later = np.flatnonzero(ahead >= (1 - TOLERANCE) * base)
        if len(later) and ahead.max() <= (1 + TOLERANCE) * base:
            return Fault("not-reached", {"first": low, "last": low, "target": base, "needs": int(later[0]) * stride})
    return None


def _never_acts(schedule: Schedule, used: Rates, calls: int) -> Fault | None:
    """A rate that stays the same for the whole run, because what would change it comes long after its end."""
    firsts = []
    for index in range(used.shape[1]):
        ahead, stride = _ahead(schedule, index, calls)
        changes = np.flatnonzero(np.abs(ahead - ahead[0]) > (1 - IDLE) * np.abs(ahead[0]))
        firsts += [int(changes[0]) * stride] if len(changes) else []
    return Fault("never-acts", {"first": min(firsts)}) if firsts and min(firsts) >= FAR * max(calls, 2) else None


def _ahead(schedule: Schedule, group: int, calls: int) -> tuple[Rates, int]:
    """What the schedule was still going to do, as far as its rates are finite, and its stride."""
    curve = schedule.curve(max(AHEAD, 2 * calls))
    rates = curve.rates[:, group]
    return rates[: (np.flatnonzero(~np.isfinite(rates)).tolist() or [len(rates)])[0]], curve.stride


def _cut_short(schedule: Schedule, groups: list[int], calls: int) -> Fault | None:
    """A decay with an end of its own, of which the run sees less than half."""
    ahead = schedule.curve(max(AHEAD, 2 * calls))
    ends = [_end_beyond(ahead, group, calls) for group in groups]
    if None in ends:
        return None
    now = calls // ahead.stride
    rates = ahead.rates[: now + 1, groups[0]]
    return Fault("cut-short", {"needs": ends[0], "last": float(rates[max(0, now - 1)] / rates.max())})


def _end_beyond(ahead: Curve, group: int, calls: int) -> int | None:
    rates, stride = ahead.rates[:, group], ahead.stride
    at = length_of(ahead, group)
    if at is None or at <= calls:
        return None
    now, last = max(0, calls // stride - 1), float(rates[min(at // stride, len(rates) - 1)])
    return at if rates[now] - last >= 0.5 * (rates[: now + 1].max() - last) else None
