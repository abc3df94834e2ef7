"""Whether a schedule's own length is the one that the planned run gives it, and if not, which unit it was sized in.

A schedule knows only how often it was called. Sized in epochs and called per batch (or the reverse, or
per micro-batch) it is a legal schedule of another run. So nothing here asks whether a curve is "good":
a curve that is over too soon, or never gets going, is compared with what the same scheduler would do
if it were called once per epoch, per optimizer step or per batch, and the unit that explains it is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stabcheck.trial.schedule.rate_shape import TURN, Rates, distinct, last_change, natural_end, shape_of
from stabcheck.trial.schedule.simulation import Curve, Schedule
from stabcheck.trial.schedule.sizes import class_names, parts

TOLERANCE = 0.1
"""Lengths that differ by less are the same: a last partial batch, a warm-up that was counted twice, round numbers."""
APART = 1.3
"""Two units are told apart only where the run has this much more of one than of the other."""
SPENT_EARLY = 0.5
"""A schedule that is spent before half of the run is over leaves most of the run without training. Measured: cosine
is spent at 0.92 of its length, linear at 0.97, exponential down to 1e-5 at 0.60, a tenfold drop every fifth at 0.60."""
SPENT_AT_ONCE = 0.2
"""Spent before so little of the run, it is no schedule of this run: a rate that halves every thirtieth is spent at a third."""
FAR = 5
"""Run lengths after which a first milestone is no longer that of a run which was shortened."""
DEAD_TAIL = 0.1
"""Share of the run at a negligible rate that is more than a rounding of the length."""
AHEAD = 20_000
"""Calls beyond the planned end that are looked at to learn what the schedule was still going to do (about 50 ms)."""
IDLE = 0.99
"""A schedule that changes the rate by less than a hundredth in the whole run does nothing."""
CYCLIC = frozenset({"CyclicLR", "CosineAnnealingWarmRestarts"})
"""Schedulers that rise again because that is what they are for."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with the schedule over the run. `kind` names it; positions are numbers of scheduler calls."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)


def judge(schedule: Schedule, calls: int, units: dict[str, float]) -> Fault | None:
    """What is wrong if the scheduler is called `calls` times in the run, which has so many of each of the `units`.

    The most telling fault only; None if there is none, or if the curve could not be stepped to its end.
    """
    curve = schedule.curve(calls)
    used = _used(curve, calls)
    sick = np.argwhere(~np.isfinite(used) | (used < 0))
    if not curve.complete:
        return _impossible(used, sick, curve.stride) if len(sick) else None
    names = class_names(schedule.scheduler)
    if not len(sick) and not (used > 0).any():
        return Fault("always-zero")
    fault = _too_often(schedule, curve, calls, units, names)
    if fault is None and not len(sick) and curve.raised_at is None:
        fault = _too_rarely(schedule, used, calls, units)
    if fault is not None:
        return fault
    if len(sick):
        return _impossible(used, sick, curve.stride)
    if curve.raised_at is not None:
        return Fault("raises", {"call": curve.raised_at, "error": curve.error})
    return _by_itself(schedule, used, curve.stride, calls, names)


def judge_rates(rates: Rates, whole: bool) -> Fault | None:
    """What is wrong with rates that came from no scheduler, of the `whole` run or of its beginning."""
    sick = np.argwhere(~np.isfinite(rates) | (rates < 0))
    if len(sick):
        return _impossible(rates, sick, 1)
    if not whole:
        return Fault("always-zero") if not (rates > 0).any() and len(rates) > 1 else None
    return _by_itself(None, rates, 1, len(rates), set()) if (rates > 0).any() else Fault("always-zero")


def ends_at(schedule: Schedule, calls: int) -> bool:
    """Whether the schedule is over, by its own measure, after about so many calls."""
    at = _length(schedule.curve(math.ceil(APART * calls) + 2), 0)
    return at is not None and abs(at - calls) <= max(1.0, TOLERANCE * calls)


def _length(curve: Curve, group: int) -> int | None:
    """Calls after which the schedule is over by its own measure: it turns round, has come to its floor, or raises."""
    end = natural_end(curve.rates[:, group])
    if end is not None and (end.rises or end.gradual):
        return end.at * curve.stride
    return curve.raised_at - 1 if curve.raised_at is not None else None


def _used(curve: Curve, calls: int) -> Rates:
    """The rates that the run trains with: that after the last call comes too late."""
    return curve.rates[: max(1, math.ceil(calls / curve.stride))]


def _impossible(used: Rates, sick: Any, stride: int) -> Fault:
    row, group = (int(i) for i in sick[0])
    return Fault("impossible", {"call": row * stride, "group": group, "rate": float(used[row, group])})


def _judged(rates: Rates) -> list[int]:
    """Groups whose rate has a shape to be judged: different curves, neither constant nor zero."""
    return [g for g in distinct(rates) if rates[:, g].max() > 0 and last_change(rates[:, g])]


def _too_often(schedule: Schedule, curve: Curve, calls: int, units: dict[str, float], names: set[str]) -> Fault | None:
    """Called more often than it was sized for: it is over early, or turns round, or fails."""
    fewer = sorted((count, unit) for unit, count in units.items() if count * APART <= calls)
    groups = _judged(curve.rates[np.isfinite(curve.rates).all(axis=1)])
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
    rates = _used(curve, calls)[:, group]
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


def _too_rarely(schedule: Schedule, used: Rates, calls: int, units: dict[str, float]) -> Fault | None:
    """Called more rarely than it was sized for: it has hardly begun when the run ends."""
    groups = _judged(used) or distinct(used)[:1]
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
    at = _length(ahead, group)
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


def _by_itself(schedule: Schedule | None, used: Rates, stride: int, calls: int, names: set[str]) -> Fault | None:
    """Faults that need no other unit to be seen."""
    groups = _judged(used)
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
    if not names & CYCLIC and all(s.climb >= TURN or (s.swings and "CosineAnnealingLR" in names) for s in shapes):
        # Several cycles are meant if they come from no cosine that should end, or if the run ends in a valley.
        last = shape.last / shape.peak
        meant = (shape.swings != 1 and "CosineAnnealingLR" not in names) or last < TOLERANCE
        facts = {"swings": shape.swings, "call": shape.valley_at * stride, "last": last}
        return None if meant else Fault("climbs", facts)
    if schedule is not None and all(0.5 * s.peak < s.last < s.peak for s in shapes) and not names & CYCLIC:
        return _cut_short(schedule, groups, calls)
    return None


def _still_rising(schedule: Schedule, used: Rates, group: int, calls: int) -> Fault | None:
    ahead, stride = _ahead(schedule, group, calls)
    falls = np.flatnonzero(np.maximum.accumulate(ahead) - ahead > TURN * used[-1, group])
    ahead = ahead[: falls[0]] if len(falls) else ahead
    peak, first, reached = float(ahead.max()), float(used[0, group]), float(used[-1, group])
    grows = float(ahead[-1]) == peak > float(ahead[int(0.95 * len(ahead))])
    endless = grows or any(getattr(part, "gamma", 0) > 1 for part in parts(schedule.scheduler))
    if endless and reached >= 1.5 * first:
        return Fault("grows", {"first": first, "last": reached, "factor": reached / first if first > 0 else math.inf})
    if endless or reached >= (1 - TOLERANCE) * peak:
        return None
    needs = int(np.argmax(ahead >= (1 - 1e-6) * peak)) * stride
    return Fault("not-reached", {"first": first, "last": reached, "target": peak, "needs": needs})


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
    at = _length(ahead, group)
    if at is None or at <= calls:
        return None
    now, last = max(0, calls // stride - 1), float(rates[min(at // stride, len(rates) - 1)])
    return at if rates[now] - last >= 0.5 * (rates[: now + 1].max() - last) else None
