"""Plain mathematics on sequences of floats. No torch, no opinions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN for an empty sequence."""
    if not values:
        return math.nan
    total = math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
    return total / len(values)


def joint_norm(norms: Iterable[float | None]) -> float | None:
    """The L2 norm of several tensors together, of the norms of those that are there; None if none is."""
    there = [norm for norm in norms if norm is not None]
    return math.hypot(*there) if there else None


def quantile(values: Iterable[float], share: float) -> float:
    """The `share` quantile (0 to 1) by linear interpolation; NaN for no values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(values: Iterable[float]) -> float:
    """The middle value; NaN for no values."""
    return quantile(values, 0.5)


def log(value: float | None) -> float:
    """Natural logarithm, with -inf for zero and NaN for None, NaN or a negative value."""
    if value is None or math.isnan(value) or value < 0:
        return math.nan
    return math.log(value) if value > 0 else -math.inf


def number(value: object) -> float | None:
    """A number as a float, the words that a report has for NaN and infinities included; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and value not in {"NaN", "Infinity", "-Infinity"}:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
