"""Whether a schedule's own length is the one that the planned run gives it, and if not, which unit it was sized in.

A schedule knows only how often it was called. Sized in epochs and called per batch (or the reverse, or
per micro-batch) it is a legal schedule of another run. So nothing here asks whether a curve is "good":
a curve that is over too soon, or never gets going, is compared with what the same scheduler would do
if it were called once per epoch, per optimizer step or per batch, and the unit that explains it is named.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stabcheck.trial.schedule.fault import Fault
from stabcheck.trial.schedule.rate_shape import (
    DEAD_TAIL,
    SPENT_EARLY,
    TURN,
    Rates,
    distinct,
    last_change,
    natural_end,
    shape_of,
    varying,
)
from stabcheck.trial.schedule.simulation import Curve, Schedule
from stabcheck.trial.schedule.sizes import CYCLIC

TOLERANCE = 0.1
"""Lengths that differ by less are the same: a last partial batch, a warm-up that was counted twice, round numbers."""
APART = 1.3
"""Two units are told apart only where the run has this much more of one than of the other."""
IDLE = 0.99
"""A schedule that changes the rate by less than a hundredth in the whole run does nothing."""


def ends_at(schedule: Schedule, calls: int) -> bool:
    """Whether the schedule is over, by its own measure, after about so many calls."""
    at = length_of(schedule.curve(math.ceil(APART * calls) + 2), 0)
    return at is not None and abs(at - calls) <= max(1.0, TOLERANCE * calls)


def length_of(curve: Curve, group: int) -> int | None:
    """Calls after which the schedule is over by its own measure: it turns round, has come to its floor, or raises."""
    end = natural_end(curve.rates[:, group])
    if end is not None and (end.rises or end.gradual):
        return end.at * curve.stride
    return curve.raised_at - 1 if curve.raised_at is not None else None


def too_often(schedule: Schedule, curve: Curve, calls: int, units: dict[str, float], names: set[str]) -> Fault | None:
    """Called more often than it was sized for: it is over early, or turns round, or fails."""
    fewer = sorted((count, unit) for unit, count in units.items() if count * APART <= calls)
    groups = varying(curve.rates[np.isfinite(curve.rates).all(axis=1)])
    symptoms = [_over_early(curve, group, calls) for group in groups] if fewer else []
    if not symptoms or None in symptoms:
        return None
    kind, facts = symptoms[0] or ("", {})
    for count, unit in reversed(fewer):
        early = curve if curve.stride == 1 else schedule.curve(2 * math.ceil(count) + 2)
        if not all(_fits(early, group, count, ends=kind not in {"spent", "settled"}) for group in groups):
            continue
        # No formula jumps back to its peak by accident, but a cycle that is shorter than an epoch is a strange one.
        cyclic = bool(names & CYCLIC) or bool(facts.get("restarts"))
        if cyclic and count * count > calls:
            continue
        return Fault("pace", {"unit": unit, "count": count, "symptom": kind, "mild": cyclic, **facts})
    return None


def _over_early(curve: Curve, group: int, calls: int) -> tuple[str, dict[str, Any]] | None:
    """The symptom of a schedule that is over before the run is, worst first."""
    if curve.raised_at is not None:
        return "raises", {"call": curve.raised_at, "error": curve.error}
    rates = curve.used(calls)[:, group]
    sick = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if len(sick):
        return "impossible", {"call": int(sick[0]) * curve.stride, "rate": float(rates[sick[0]])}
    shape, length = shape_of(rates), len(rates)
    last = shape.last / shape.peak
    if shape.swings or shape.restarts or shape.climb >= TURN:
        facts = {"swings": shape.swings + shape.restarts, "restarts": shape.restarts > shape.swings}
        return "swings", {**facts, "call": shape.valley_at * curve.stride}
    if shape.spent_at < SPENT_EARLY * length or shape.dead_from < (1 - DEAD_TAIL) * length:
        return "spent", {"call": min(shape.spent_at, shape.dead_from) * curve.stride, "last": last}
    done = last_change(rates)
    return ("settled", {"call": done * curve.stride, "last": last}) if last <= 0.5 and done * 3 <= length else None


def _fits(curve: Curve, group: int, count: float, ends: bool) -> bool:
    """Whether the schedule, called `count` times, makes use of the run and is over when the run is.

    One that `ends` (turns round, fails) when called more often has to do so there.
    """
    rates, count = curve.rates[:, group], count / curve.stride
    whole = math.ceil(count)
    part = rates[: whole + 1]
    if whole < 2 or len(part) < whole * (1 - TOLERANCE) or not (np.isfinite(part[:whole]) & (part[:whole] >= 0)).all():
        return False
    shape = shape_of(part[:whole])
    if shape.spent_at < SPENT_EARLY * (whole - 1) or shape.dead_from < (1 - DEAD_TAIL) * whole - 1:
        return False
    if shape.swings or shape.restarts or part[shape.peak_at :].min() > (1 - TOLERANCE) * shape.peak:
        return False
    end, slack = natural_end(rates), max(1.0, TOLERANCE * count)
    if curve.raised_at is not None and end is None:
        return abs((curve.raised_at - 1) / curve.stride - count) <= slack
    if end is not None and (end.rises or end.gradual):
        return abs(end.at - count) <= slack
    return not ends and last_change(part) >= 0.3 * count and (end is None or end.at <= count + slack)


def too_rarely(schedule: Schedule, used: Rates, calls: int, units: dict[str, float]) -> Fault | None:
    """Called more rarely than it was sized for: it has hardly begun when the run ends."""
    groups = varying(used) or distinct(used)[:1]
    if not all(used[-1, g] > TOLERANCE * used[:, g].max() for g in groups):
        return None
    for count, unit in sorted((count, unit) for unit, count in units.items() if count >= APART * calls):
        # A cosine has to be followed a fifth beyond its end to be seen to rise again.
        ahead = schedule.curve(math.ceil(count * APART) + 2)
        found = [_unfinished(used[:, g], ahead, g, calls, count) for g in groups] if ahead.complete else []
        if found and all(found):
            return Fault("pace", {"unit": unit, "count": count, **(found[0] or {})})
    return None


def _unfinished(now: Rates, ahead: Curve, group: int, calls: int, count: float) -> dict[str, Any] | None:
    """Facts about a schedule that needs `count` calls to run its course and gets `calls`."""
    rates, stride = ahead.rates[:, group], ahead.stride
    part = rates[: math.ceil(count / stride)]
    if len(part) * stride < count * (1 - TOLERANCE) or not (np.isfinite(part) & (part >= 0)).all() or not part.any():
        return None
    shape = shape_of(part)
    sound = shape.spent_at >= SPENT_EARLY * (len(part) - 1) and not shape.swings and not shape.restarts
    at = length_of(ahead, group)
    reached = float(now.max() / shape.peak)
    facts = {"reached": reached, "last": float(now[-1] / shape.peak), "mild": False}
    if at is not None and abs(at - count) <= max(1.0, TOLERANCE * count) and sound:
        left = float(now[-1] - part[-1]) / max(float(shape.peak - part[-1]), 1e-300)
        if reached < 1 - TOLERANCE:
            return {**facts, "symptom": "warming"}
        return {**facts, "symptom": "hardly-decays"} if left > TOLERANCE else None
    idle = float(now.min()) >= IDLE * float(now.max())
    if idle and at is None and sound and shape.last <= 0.5 * shape.peak and last_change(part) * stride >= 0.3 * count:
        # A run that was shortened for a trial keeps its milestones too, but not a tenth of its length and less.
        # Milestones at whole epochs, counted in steps, tell that they were computed for this loader.
        first, epoch = int(np.flatnonzero(rates < IDLE * now.max())[0]) * stride, round(count / calls)
        moves = last_change(now) > 0
        if moves or first >= 10 * calls or (epoch >= 8 and stride == 1 and first % epoch == 0):
            return {**facts, "symptom": "hardly-decays", "mild": moves or first < 10 * calls}
    return None
