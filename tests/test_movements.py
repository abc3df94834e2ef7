"""What counts as a movement, each against the nearest change that does not."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabcheck.engine import run
from stabcheck.movements import Movement, moved
from stabcheck.options import Options
from stabcheck.report import Report, from_json
from tests.renderers.report_samples import report_of, result


def of(id: str, measurements: dict[str, Any], **rest: Any) -> Report:
    return report_of(result(id, "said", measurements=measurements, **rest))


def losses(first: Any, constant: float | None = None) -> Report:
    return of("exploding-gradients", {"first_loss": first, "constant_loss": constant})


def norms(total: float, **layers: float) -> Report:
    parameters = [{"name": name.replace("_", "."), "median": value} for name, value in layers.items()]
    return of("gradient-norms", {"total": [total] * 40, "parameters": parameters})


def silent(dead: float, units: int = 100, call: int = 0) -> Report:
    return of("dying-relu", {"layers": [{"module": "relu", "call": call, "units": units, "dead": dead}]})


def rate(value: float | None) -> Report:
    return of("learning-rate", {"largest_stable_rate": value})


def took(seconds: float, **rest: Any) -> Report:
    return of("eval-mode", {}, duration_s=seconds, **rest)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (losses(2.3), losses(2.6), []),
        (losses(2.3), losses(23.0), ["loss at the start"]),
        (losses(23.0), losses(2.3), ["loss at the start"]),
        (losses(-4.0), losses(4.0), ["loss at the start"]),
        (losses(0.0), losses(0.0), []),
        (losses("NaN"), losses("NaN"), []),
        (losses(2.3), losses("NaN"), ["loss at the start"]),
        (losses(2.3), losses("Infinity"), ["loss at the start"]),
        (losses(None), losses(2.3), []),
        # The zero of a likelihood is anywhere: from 0.7 to 2 is little where a constant guess has -6.5.
        (losses(2.04, -6.5), losses(0.72, -5.0), []),
        (losses(2.04, 0.1), losses(0.72, 0.1), ["loss at the start"]),
        (norms(1.0, a_weight=0.5), norms(1.5, a_weight=0.75), []),
        (norms(1.0, a_weight=0.5), norms(10.0, a_weight=5.0), ["gradient norm of the whole model"]),
        (norms(1.0, a_weight=0.5), norms(1.0, a_weight=0.01), ["share of the gradient at a"]),
        (norms(1.0, a_weight=0.5), norms(1.0, b_weight=0.01), []),
        (norms(1.0, a_bias=1e-6), norms(1.0, a_bias=9e-4), []),
        (norms(1.0, a_bias=1e-6), norms(1.0, a_bias=0.1), ["share of the gradient at a"]),
        # A layer is weight and bias together, and which of them has the gradient is no matter.
        (norms(1.0, a_weight=0.5, a_bias=0.01), norms(1.0, a_weight=0.5, a_bias=0.1), []),
        (norms(math.inf, a_weight=1.0), norms(1.0, a_weight=1.0), ["gradient norm of the whole model"]),
        (silent(0.0), silent(0.1), []),
        (silent(0.0), silent(0.6), ["silent units at relu"]),
        (silent(0.6, call=1), silent(0.0, call=1), ["silent units at relu (call 2)"]),
        (silent(0.0, units=4), silent(0.5, units=4), []),
        (silent(0.0, units=100), silent(0.6, units=200), []),
        (rate(0.1), rate(0.12), []),
        (rate(0.1), rate(0.001), ["largest stable learning rate"]),
        (rate(None), rate(0.1), []),
        (took(1.0), took(2.9), []),
        (took(5.0), took(9.0), []),
        (took(5.0), took(12.0), ["time of all checks", "time at eval-mode"]),
        (took(12.0), took(5.0), []),
        (took(0.1, skip_reason="why"), took(12.0), []),
        (losses(2.3), norms(1.0), []),
    ],
)  # fmt: skip
def test_what_moves(old: Report, new: Report, expected: list[str]) -> None:
    # As the command has them: through the file.
    found = moved(from_json(old.to_json()), from_json(new.to_json()))

    assert [f"{one.what} at {one.where}" if one.where else one.what for one in found] == expected


def test_the_numbers_and_their_factor() -> None:
    assert moved(rate(0.1), rate(0.001)) == (
        Movement("largest stable learning rate", None, "learning-rate", "number", 0.1, 0.001),
    )
    assert moved(rate(0.1), rate(0.001))[0].factor == pytest.approx(0.01)
    assert moved(losses(-4.0), losses(4.0))[0].factor is None
    assert moved(losses(2.3), losses("NaN"))[0].factor is None


def test_the_layer_that_moved_most_comes_first() -> None:
    found = moved(norms(1.0, a_weight=0.5, b_weight=0.5), norms(1.0, a_weight=0.1, b_weight=0.01))

    assert [one.where for one in found] == ["b", "a"]


def test_trials_of_other_length_are_not_compared() -> None:
    old, new = norms(1.0, a_weight=0.5), norms(10.0, a_weight=0.01)
    longer = new.model_copy(update={"environment": {**new.environment, "steps": 80}})

    assert len(moved(old, new)) == 2
    assert moved(old, longer) == ()


def test_a_step_that_overflows_is_not_the_median() -> None:
    old, new = norms(1.0), of("gradient-norms", {"total": ["NaN", "Infinity", *[1.0] * 38], "parameters": []})

    assert moved(old, new) == ()


SETUPS = """
import torch
def build(scale):
    x = torch.randn(256, 8)
    y = (x.sum(1) > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    with torch.no_grad():
        model[2].weight.mul_(scale)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return {"model": model, "train_loader": loader, "loss_fn": torch.nn.CrossEntropyLoss(), "optimizer": optimizer}
def usual():
    return build(1)
def wild():
    return build(40)
"""


def test_another_seed_moves_nothing_and_other_weights_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "setups_to_compare.py").write_text(SETUPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    def trial(function: str, seed: int) -> Report:
        options = Options(select=("SC02", "SC08", "SC09"), steps=20, seed=seed, in_process=True)
        return run(f"setups_to_compare.py:{function}", options)

    first = trial("usual", 0)
    assert moved(first, trial("usual", 1)) == ()
    what = {one.what for one in moved(first, trial("wild", 0))}
    assert {"loss at the start", "gradient norm of the whole model"} <= what
    sys.modules.pop("setups_to_compare", None)


_any = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["NaN", "Infinity", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "median", "module", "call", "units", "dead"]), inner, max_size=4)
    ),
    max_leaves=6,
)
_measurements = st.dictionaries(
    st.sampled_from(["first_loss", "constant_loss", "total", "parameters", "layers", "largest_stable_rate"]), _any
)
_checks = st.sampled_from(["exploding-gradients", "gradient-norms", "dying-relu", "learning-rate"])


@given(_checks, _measurements, _measurements, st.floats(), st.floats())
@settings(max_examples=300, deadline=None)
def test_no_measurement_is_too_strange(check: str, old: Any, new: Any, before: float, after: float) -> None:
    reports = of(check, old, duration_s=before), of(check, new, duration_s=after)

    for one in moved(*reports):
        assert one.factor is None or one.factor > 0
    assert moved(reports[0], reports[0]) == ()
