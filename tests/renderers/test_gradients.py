from __future__ import annotations

import csv
import json
import math

from stabcheck.recording import Clipping, Parameter, Recording, Step, Yardsticks
from stabcheck.renderers.gradients import COLUMNS, TOTAL, render, rows


def parameter(name: str, norms: tuple[float | None, ...]) -> Parameter:
    return Parameter(
        name=name, shape=(2,), module="m", trainable=True, optimized=True,
        zero_at_start=False, constant_at_start=False, matters=None, grad_norm=norms,
        clipped_norm=tuple(None if norm is None else min(norm, 1.0) for norm in norms), weight_norm=(), update_norm=(),
    )  # fmt: skip


def recording(*parameters: Parameter, steps: int) -> Recording:
    return Recording(
        target="t", seed=0, loop="textbook", planned=steps,
        steps=tuple(Step(i, 1.0, 4, (0.1,), 2.0 + i, 1.0, True) for i in range(steps)),
        sampled=(), parameters=parameters, signals=(), rectifiers=(), recurrences=(), yardsticks=Yardsticks(None, None, None),
        optimizers=(), clipping=Clipping(None, None), tokens=False, accumulate_steps=1, planned_steps=None, warmup_share=None,
        first_non_finite=None, failure=None, sources={}, not_recorded=(),
    )  # fmt: skip


SMALL = recording(parameter("a.weight", (0.5, math.nan)), parameter("b, odd", (None, math.inf)), steps=2)


def test_a_row_for_each_step_of_the_total_and_of_each_parameter() -> None:
    found = [tuple(row.values()) for row in rows(SMALL)]

    assert [row[:2] for row in found] == [(s, name) for s in (0, 1) for name in (TOTAL, "a.weight", "b, odd")]
    assert found[0] == (0, TOTAL, 2.0, 1.0)
    assert found[1] == (0, "a.weight", 0.5, 0.5)
    assert found[2] == (0, "b, odd", None, None)


def test_csv_comes_back_as_it_was() -> None:
    found = list(csv.DictReader(render(SMALL, ".csv").splitlines()))

    assert tuple(found[0]) == COLUMNS
    assert len(found) == 6
    assert found[2] == {"step": "0", "parameter": "b, odd", "grad_norm": "", "clipped_norm": ""}
    assert math.isnan(float(found[4]["grad_norm"]))
    assert float(found[5]["grad_norm"]) == math.inf


def test_jsonl_is_json_with_our_spelling_of_nan() -> None:
    found = [json.loads(line, parse_constant=lambda name: 1 / 0) for line in render(SMALL, ".jsonl").splitlines()]

    assert len(found) == 6
    assert found[2] == {"step": 0, "parameter": "b, odd", "grad_norm": None, "clipped_norm": None}
    assert found[4]["grad_norm"] == "NaN"
    assert found[5]["grad_norm"] == "Infinity"
