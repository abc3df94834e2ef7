"""What is wrong with the rates of the planned run: the most telling fault, or none."""

from __future__ import annotations

from typing import Any

import numpy as np

from stabcheck.trial.schedule.course import fault_of_course
from stabcheck.trial.schedule.fault import Fault
from stabcheck.trial.schedule.pace import too_often, too_rarely
from stabcheck.trial.schedule.rate_shape import Rates
from stabcheck.trial.schedule.simulation import Schedule
from stabcheck.trial.schedule.sizes import class_names


def judge(schedule: Schedule, calls: int, units: dict[str, float]) -> Fault | None:
    """What is wrong if the scheduler is called `calls` times in the run, which has so many of each of the `units`.

    The most telling fault only; None if there is none, or if the curve could not be stepped to its end.
    """
    curve = schedule.curve(calls)
    used = curve.used(calls)
    sick = np.argwhere(~np.isfinite(used) | (used < 0))
    if not curve.complete:
        return _impossible(used, sick, curve.stride) if len(sick) else None
    names = class_names(schedule.scheduler)
    if not len(sick) and not (used > 0).any():
        return Fault("always-zero")
    fault = too_often(schedule, curve, calls, units, names)
    if fault is None and not len(sick) and curve.raised_at is None:
        fault = too_rarely(schedule, used, calls, units)
    if fault is not None:
        return fault
    if len(sick):
        return _impossible(used, sick, curve.stride)
    if curve.raised_at is not None:
        return Fault("raises", {"call": curve.raised_at, "error": curve.error})
    return fault_of_course(schedule, used, curve.stride, calls, names)


def judge_rates(rates: Rates, whole: bool) -> Fault | None:
    """What is wrong with rates that came from no scheduler, of the `whole` run or of its beginning."""
    sick = np.argwhere(~np.isfinite(rates) | (rates < 0))
    if len(sick):
        return _impossible(rates, sick, 1)
    if not whole:
        return Fault("always-zero") if not (rates > 0).any() and len(rates) > 1 else None
    return fault_of_course(None, rates, 1, len(rates), set()) if (rates > 0).any() else Fault("always-zero")


def _impossible(used: Rates, sick: Any, stride: int) -> Fault:
    row, group = (int(i) for i in sick[0])
    return Fault("impossible", {"call": row * stride, "group": group, "rate": float(used[row, group])})
