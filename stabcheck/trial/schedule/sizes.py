"""The parts of a scheduler, the lengths they were built with, and what these would be in another unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LENGTHS = {
    "StepLR": "step_size",
    "MultiStepLR": "milestones",
    "ConstantLR": "total_iters",
    "LinearLR": "total_iters",
    "PolynomialLR": "total_iters",
    "CosineAnnealingLR": "T_max",
    "CosineAnnealingWarmRestarts": "T_0",
    "OneCycleLR": "total_steps",
    "CyclicLR": "total_size",
    "ExponentialLR": "gamma",
    "SequentialLR": "_milestones",
}

CYCLIC = frozenset({"CyclicLR", "CosineAnnealingWarmRestarts"})
"""Schedulers that rise again because that is what they are for."""


def parts(scheduler: Any) -> list[Any]:
    """The scheduler and those inside it (chained, sequential, wrapped), outermost first."""
    inner = [*getattr(scheduler, "_schedulers", ())]
    wrapped = getattr(scheduler, "scheduler", None)
    inner += [wrapped] if wrapped is not None and hasattr(wrapped, "step") else []
    return [scheduler, *(part for item in inner for part in parts(item))]


def class_names(scheduler: Any) -> set[str]:
    """Names of the classes of all parts, base classes included."""
    return {base.__name__ for part in parts(scheduler) for base in type(part).__mro__}


def describe(scheduler: Any) -> str:
    """The scheduler as a reader knows it: its class, with the lengths that torch's own have."""
    kind = type(scheduler).__name__
    inner = [describe(part) for part in parts(scheduler)[1:] if part in getattr(scheduler, "_schedulers", ())]
    lengths = [f"{name}={value}" for name, value in _lengths(scheduler)]
    return f"{kind}({', '.join([*inner, *lengths])})" if inner or lengths else kind


def resized(scheduler: Any, ratio: float) -> str:
    """Every length times `ratio`, as it would be written; empty for a scheduler that keeps its lengths to itself."""
    new = []
    for part in parts(scheduler):
        for name, value in _lengths(part):
            new.append(f"{name}={_scaled(name, value, ratio)}")
    return ", ".join(new)


def _lengths(scheduler: Any) -> list[tuple[str, Any]]:
    for base in type(scheduler).__mro__:
        name = _LENGTHS.get(base.__name__)
        if name is not None and hasattr(scheduler, name):
            value = getattr(scheduler, name)
            if isinstance(value, Mapping):  # MultiStepLR keeps a Counter
                value = sorted(value)
            return [(name.lstrip("_"), value)]
    return []


def _scaled(name: str, value: Any, ratio: float) -> Any:
    if name == "gamma":
        return f"{value ** (1 / ratio):.6g}"
    if isinstance(value, (list, tuple)):
        return [max(1, round(item * ratio)) for item in value]
    return max(1, round(value * ratio))
