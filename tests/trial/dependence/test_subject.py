from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.trial.dependence.causality import _is_next
from stabcheck.trial.dependence.difference import equal, is_changed, scale
from stabcheck.trial.dependence.padding import _outside_run
from stabcheck.trial.dependence.subject import named_outputs, subject
from stabcheck.trial.dependence.trace import aligned, traced
from tests.experiments.dependence_cases import Model, sequences, setup


def test_outputs_are_named_and_only_floating_ones_kept() -> None:
    outputs = {"logits": torch.zeros(2, 3), "ids": torch.zeros(2).long(), "states": (torch.ones(2), torch.ones(1))}
    assert list(named_outputs(outputs)) == ["logits", "states.0", "states.1"]
    assert list(named_outputs((torch.zeros(2), None))) == ["output 0"]
    assert list(named_outputs(torch.zeros(2))) == ["output"]


def test_rounding_is_no_change_and_nan_is_equal_to_nan() -> None:
    base = torch.tensor([1.0, -2.0, float("nan"), 0.5])
    other = base + torch.tensor([1e-7, 0.0, 0.0, 1e-3])
    assert is_changed(base, other).tolist() == [False, False, False, True]
    assert equal({"a": base}, {"a": base.clone()})
    assert not equal({"a": base}, {"a": other})
    assert scale(torch.tensor([3.0, 4.0])) == pytest.approx(12.5**0.5)


@pytest.mark.parametrize("at_end", [True, False])
def test_padding_is_a_run_of_different_length_at_one_end(at_end: bool) -> None:
    empty = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    rows = empty if at_end else empty.flip(1)
    real = _outside_run(rows)
    assert real is not None
    assert torch.equal(real, ~rows)
    rows[2, 1] = True  # one inside is no padding
    assert _outside_run(rows) is None
    assert _outside_run(torch.tensor([[False, True], [False, True]])) is None


@pytest.mark.parametrize("loss_fn", [F.mse_loss, F.l1_loss, F.smooth_l1_loss])
def test_the_target_of_a_regression_is_read_off_its_gradient(loss_fn: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    output, present, upcoming = torch.randn(200, requires_grad=True), torch.randn(200), torch.randn(200)
    (gradient,) = torch.autograd.grad(loss_fn(output, upcoming), output)
    assert _is_next(output.detach(), gradient, present, upcoming)
    assert not _is_next(output.detach(), gradient, upcoming, present)
    # Where every prediction is too high for both, the sign tells nothing.
    (gradient,) = torch.autograd.grad(loss_fn(output + 100, present), output)
    assert not _is_next(output.detach() + 100, gradient, present, upcoming)


def test_a_trace_holds_what_the_operations_gave(make_bench: Callable[..., Any]) -> None:
    def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.head(torch.relu(x.mean(1)))

    with subject(make_bench(setup(lambda: Model(forward, head=nn.Linear(6, 3))))) as found:
        before, after = traced(found), traced(found, lambda name, t: t + 1)
        assert before is not None
        assert after is not None
        pairs = list(aligned(before[0], after[0]))
        assert [ops[0].name for ops in pairs][:3] == ["mean", "relu", "linear"]
        assert [ops[0].module for ops in pairs][:3] == ["", "", "head"]
        (inputs,) = found.inputs().values()
        assert torch.equal(pairs[0][0].results[0], inputs.mean(1))
        assert torch.equal(pairs[0][1].results[0], (inputs + 1).mean(1))
        assert pairs[0][0].axes == 1


def test_a_call_is_repeated_for_any_form_of_inputs(make_bench: Callable[..., Any]) -> None:
    def forward(model: Any, batch: dict[str, Any]) -> torch.Tensor:
        return model.head(batch["x"].mean(1)) + batch["more"][0]

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model({"x": batch[0], "more": [batch[1][:, None].float()]}), batch[1])

    entry = setup(lambda: Model(forward, head=nn.Linear(6, 3)), *sequences(), compute_loss=compute_loss)
    with subject(make_bench(entry)) as found:
        assert list(found.inputs()) == ["inputs.x", "inputs.more[0]"]
        moved = found.run(lambda name, t: t + 2 if name == "inputs.more[0]" else t)
        assert torch.allclose(moved["output"], found.base["output"] + 2)
