"""Windows that were brought to one level and scale each by itself, in a form that does not depend on either."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SAME = 1e-3
"""Differences of a mean, or of both ends of the range, in units of a window's own spread, up to which windows share them."""

STEP = 0.1
"""Width of the classes into which logarithms of ratios fall: rounding in float32 moves one in ten thousand into another, and half
a window of measurements still holds enough of them to be told from any other."""

EXACT = 1e-3
"""Residual of a straight line through two stretches of numbers, as a share of their spread, up to which they are one stretch in two
scales: float32 leaves 1e-6, two periods of a sine that look alike leave more."""


def are_levelled(windows: Array, steps: int) -> bool:
    """Whether each of the windows (n, steps * values a step) has the mean, or the least and the greatest value, of all others."""
    values = windows.reshape(len(windows), steps, -1).astype(np.float64)
    if windows.dtype.kind != "f" or not len(values) or not np.isfinite(values).all():
        return False
    for axes in ((1, 2), (1,)):
        spread = float(np.median(values.std(axis=axes)))
        marks = (values.mean(axis=axes),), (values.min(axis=axes), values.max(axis=axes))
        if spread > 0 and any(all(float(np.ptp(m, axis=0).max()) <= SAME * spread for m in mark) for mark in marks):
            return True
    return False


def shapes(windows: Array, steps: int) -> Array:
    """(n, (steps - 2) * values): how each difference between steps relates to the one before, in coarse classes."""
    values = windows.reshape(len(windows), steps, -1).astype(np.float64)
    rises = np.diff(values, axis=1)
    now, before = rises[:, 1:], rises[:, :-1]
    known = (now != 0) & (before != 0)
    ratio = np.where(known, now, 1.0) / np.where(known, before, 1.0)
    found = np.round(np.log(np.abs(ratio)) / STEP) * 2 + (ratio > 0)
    found = np.where(known, found, 1e6 + 2 * (now != 0) + (before != 0))
    return np.ascontiguousarray(found.reshape(len(windows), -1).astype(np.float32))


def is_one_stretch(train: Array, val: Array, steps: int, shift: int, *, at_end: bool) -> bool:
    """Whether the part that two windows share when one is moved by `shift` steps differs in level and scale alone."""
    one, two = (w.reshape(steps, -1).astype(np.float64) for w in (train, val))
    one, two = (one[: steps - shift], two[shift:]) if at_end else (one[shift:], two[: steps - shift])
    for a, b in zip(one.T, two.T, strict=True):
        centred, wanted = a - a.mean(), b - b.mean()
        slope = (centred @ wanted) / max(float(centred @ centred), 1e-300)
        if np.linalg.norm(wanted - slope * centred) > EXACT * np.linalg.norm(wanted):
            return False
    return True
