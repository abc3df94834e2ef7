"""The planned rates as shares of the rate that the optimizer was given: how much of it the run ever uses, and why."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stabcheck.trial.schedule.fault import Fault
from stabcheck.trial.schedule.rate_shape import TURN, Rates, shape_of, varying
from stabcheck.trial.schedule.simulation import Schedule

USED = 0.5
"""A run that never sees half of the given rate has a warm-up longer than half of it: a rise by t/W and a linear decay over T
meet at T/4W, a rise and a cosine at T/3.4W."""
FACTOR_ONLY = 0.5
"""Bases from here on are given to be multiplied with rates: 1.0 as a rule. Nobody means them as a rate."""
BEND = 0.3
"""Where a linear warm-up ends, the growth per call drops by 1/W, whatever else the rate is multiplied with: 0.72 of its
mean over the last half of the way up, 0.36 on each side of an end between two calls. Measured where warm-ups end under
cosine, linear, polynomial, exponential, stepwise and 1/t decays: 0.72 at least, 0.55 for Noam's; where the decay overtakes a
warm-up that goes on: at most 0.03 in 420 calls, 0.26 in 60."""


def is_a_rate(factor: float, base: float) -> bool:
    """Whether the highest `factor` that a schedule multiplies the rate `base` with is that rate itself."""
    return base < FACTOR_ONLY and math.isclose(factor, base, rel_tol=0.01)


def overtaken(schedule: Schedule, used: Rates, stride: int) -> Fault | None:
    """A warm-up that is still going on where a decay, multiplied with it, turns the rate round.

    So the rate has its peak where no part of the schedule ends, at a small share of the base rate of every group.
    """
    bases = np.array([float(group.get("initial_lr", 0.0)) for group in schedule.optimizer.param_groups])
    groups = varying(used)
    if len(bases) != used.shape[1] or not groups or not ((bases > 0) & (bases < FACTOR_ONLY)).all():
        return None
    shares = used.max(axis=0) / bases
    meant = all(is_a_rate(float(share), float(base)) for share, base in zip(shares, bases, strict=True))
    if meant or shares.max() >= USED or not all(_goes_on(used[:, g]) for g in groups):
        return None
    group = int(shares.argmax())
    facts: dict[str, Any] = {"peak": float(used[:, group].max()), "base": float(bases[group])}
    return Fault("overtaken", {**facts, "call": int(used[:, group].argmax()) * stride, "share": float(shares[group])})


def _goes_on(rates: Rates) -> bool:
    """Whether what made the rate rise up to its peak goes on after it."""
    stairs = rates[np.concatenate([[True], np.diff(rates) != 0])]
    peak, shape = int(stairs.argmax()), shape_of(stairs)
    if not 2 <= peak < len(stairs) - 2 or stairs[peak] < (1 + TURN) * stairs[0]:
        return False
    at_once = stairs[peak + 1] < (1 - TURN) * stairs[peak]
    if not at_once and (shape.swings or shape.restarts):
        return False
    growth = np.diff(np.log(np.maximum(stairs, np.finfo(float).tiny)))
    climb = growth[peak // 2 : peak].mean()
    # A fall at once is a milestone: the growths on either side of it tell whether the rise goes on.
    bends = -np.diff(np.delete(growth, peak) if at_once else growth)[peak - 2 : peak + 1]
    return bool(bends.max() < BEND * climb)
