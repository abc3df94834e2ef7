"""Recordings made by hand, to be bent by a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stabcheck.recording import (
    Clipping,
    OptimizerFacts,
    Parameter,
    Recording,
    Rectifier,
    Signal,
    Step,
    Yardsticks,
)  # fmt: skip

STEPS, SAMPLED = 40, (0, 1, 2, 4, 8, 13, 19, 25, 32, 39)


def falling(start: float = 2.3, end: float = 0.3) -> list[float]:
    return [start + (end - start) * i / (STEPS - 1) for i in range(STEPS)]


def flat(level: float = 2.3) -> list[float]:
    return [level + 0.01 * (-1) ** i for i in range(STEPS)]


def steps(
    losses: list[float], norms: list[float] | None = None, clipped: list[float] | None = None
) -> tuple[Step, ...]:
    norms = norms or [1.0] * len(losses)
    return tuple(
        Step(i, loss, 32, (0.1,), norm, seen, True)
        for i, (loss, norm, seen) in enumerate(zip(losses, norms, clipped or norms, strict=True))
    )


def signal(
    module: str, gradient: float = 1.0, share: float = 0.5, *, at_start: float | None = None, rms: float = 1.0
) -> Signal:
    first = gradient if at_start is None else at_start
    course = [first + (gradient - first) * i / 9 for i in range(10)] if gradient else [first] * 3 + [0.0] * 7
    return Signal(module, "Linear", (rms,) * 10, (share,) * 10, tuple(course))


def parameter(name: str = "0.weight", **changes: Any) -> Parameter:
    made = Parameter(
        name=name, shape=(4, 4), module=name.rpartition(".")[0], trainable=True,
        optimized=True, zero_at_start=False, constant_at_start=False, matters=None, grad_norm=(1.0,) * STEPS,
        clipped_norm=(1.0,) * STEPS, weight_norm=(10.0,) * 10, update_norm=(0.1,) * 10,
    )  # fmt: skip
    return replace(made, **changes)


def rectifier(
    module: str = "1", dead: float = 0.0, *, dead_at_start: float | None = None, units: int = 100, **changes: Any
) -> Rectifier:
    silent, early = round(dead * units), round((dead if dead_at_start is None else dead_at_start) * units)
    made = Rectifier(
        module=module, call=0, kind="relu", after="0", units=units, bypassed=False, observed=(*range(5), *range(30, 40)),
        first_fired=tuple(-1 if i < early else 0 for i in range(units)),
        last_fired=tuple((-1 if i < early else 4) if i < silent else 39 for i in range(units)),
    )  # fmt: skip
    return replace(made, **changes)


def recording(**changes: Any) -> Recording:
    """A healthy one: three layers, loss falling from 2.3 to 0.3, constant prediction at 2.3."""
    made = Recording(
        target="train.py:setup", seed=0, loop="textbook", planned=STEPS, steps=steps(falling()), sampled=SAMPLED,
        parameters=(parameter("0.weight"), parameter("2.weight"), parameter("4.weight")),
        signals=(signal("0"), signal("2"), signal("4")), rectifiers=(rectifier("1"), rectifier("3")), recurrences=(),
        yardsticks=Yardsticks(2.3, 2.302, 0.0), optimizers=(OptimizerFacts("SGD", ({"lr": 0.1, "parameters": 3},)),),
        clipping=Clipping(None, None), tokens=False, accumulate_steps=1, planned_steps=1000, warmup_share=1.0,
        first_non_finite=None, failure=None, sources={}, not_recorded=(),
    )  # fmt: skip
    return replace(made, **changes)
