from __future__ import annotations

import math
import random
from typing import Any

import pytest
from report_samples import gradients, one_batch, report_of, result, schedule

from stabcheck.renderers.pictures import EXTREMES, ROWS, write_pictures
from stabcheck.renderers.text import Paper
from stabcheck.report import CheckResult, FindingResult


def drawn(*checks: CheckResult, width: int = 100, verbose: bool = False) -> str:
    paper = Paper(width)
    write_pictures(paper, report_of(*checks), verbose=verbose)
    return paper.text()


def norms(**measurements: Any) -> CheckResult:
    return result("gradient-norms", measurements={"total": [1.0, 2.0, 3.0], **measurements})


def row(name: str, size: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "first": size, "median": size, "max": size, "last": size, "clipped_median": size, **more}


def test_schedule_says_how_long_and_that_groups_are_alike() -> None:
    shown = drawn(schedule())

    assert "Learning rate over the 9765 planned steps (2 parameter groups, all the same)" in shown
    assert "3e-4 ┤" in shown
    assert "groups 0-1" not in shown


def test_groups_that_differ_are_drawn_apart_and_named() -> None:
    slow, fast = [1e-5] * 10, [1e-3] * 10
    measurements = {"planned_steps": 10, "steps": list(range(10)), "rates": [slow, fast, slow, slow]}
    shown = drawn(result("lr-schedule", measurements=measurements))

    assert "1 groups 0, 2-3   2 group 1" in shown
    assert "1e-5 ┤" in shown


def test_largest_and_smallest_gradients_are_always_listed() -> None:
    sizes = {f"p{i}": 10 ** random.Random(i).uniform(-6, 0) for i in range(200)}
    sizes["p77"], sizes["p150"] = math.nan, 0.0
    shown = drawn(norms(parameters=[row(name, size) for name, size in sizes.items()]))
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  p")]
    finite = sorted((name for name in sizes if name != "p77"), key=lambda name: sizes[name])

    assert len(listed) == ROWS
    assert listed == sorted(listed, key=lambda name: int(name[1:]))
    assert {"p77", *finite[:EXTREMES], *finite[-(EXTREMES - 1) :]} <= set(listed)
    assert f"{ROWS} of 200 parameters" in shown


def test_few_gradients_are_all_listed() -> None:
    shown = drawn(norms(parameters=[row(f"p{i}", 0.5) for i in range(ROWS)]))

    assert all(f"  p{i} " in shown for i in range(ROWS))
    assert "parameters, in model order" not in shown


def test_bars_are_logarithmic() -> None:
    """A bar is as long as the decades above the smallest norm."""
    shown = drawn(norms(parameters=[row("a", 1e-6), row("b", 1e-3), row("c", 1.0), row("d", 0.0)]))
    bars = {line.split()[0]: line.count("━") for line in shown.splitlines() if line[:3] in {"  a", "  b", "  c", "  d"}}

    assert bars == {"a": 1, "b": 6, "c": 12, "d": 0}


def test_clipping_shows_as_a_second_curve_and_column() -> None:
    shown = drawn(norms(clipped=[1.0, 1.0, 1.0], parameters=[row("a", 2.0, clipped_median=1.0)]))

    assert "1 before clipping   2 after clipping" in shown
    assert "clipped" in next(line for line in shown.splitlines() if "Gradient norm of " in line and "median" in line)


def test_no_clipping_no_second_curve() -> None:
    assert "clipping" not in drawn(norms(clipped=[1.0, 2.0, 3.0], parameters=[row("a", 2.0)]))


@pytest.mark.parametrize(
    ("threshold", "said"), [(1.5, "⠄⠄⠄ clip threshold 1.5"), (50.0, "(far below the clip threshold 50)")]
)
def test_clip_threshold_is_drawn_where_it_does_not_flatten_the_curve(threshold: float, said: str) -> None:
    assert said in drawn(norms(clip_threshold=threshold))


def test_one_batch_is_drawn_where_it_was_not_fitted_or_on_demand() -> None:
    finding = FindingResult(code="SC0101", severity="fail", message="m", fix="f")

    assert drawn(one_batch()).strip() == ""
    assert "Loss when training on one batch only" in drawn(one_batch(), verbose=True)
    failed = drawn(one_batch(finding))
    assert "1 stabcheck's Adam   2 your optimizer" in failed
    assert "constant prediction 2.3" in failed
    assert "lowest possible 0 (off the scale)" in failed


@pytest.mark.parametrize(
    "measurements",
    [
        {},
        {"rates": None, "steps": None},
        {"rates": [], "steps": []},
        {"rates": 3, "steps": "x"},
        {"rates": [None, "NaN", [None]], "steps": [1]},
        {"rates": [["NaN"]], "steps": [0]},
    ],
)
def test_a_measurement_of_another_shape_leaves_its_picture_out(measurements: dict[str, Any]) -> None:
    assert drawn(result("lr-schedule", measurements=measurements)).strip() == ""


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_names_of_parameters_stay_apart(width: int) -> None:
    """Names that differ only at their ends must not be cut to the same."""
    shown = drawn(gradients(layers=2), width=width)

    assert all(f"s.{layer}.{kind} " in shown for layer in (0, 1) for kind in ("weight", "bias"))
