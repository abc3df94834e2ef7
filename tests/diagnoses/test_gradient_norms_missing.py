from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.diagnoses.gradient_norms import CHECK
from stabcheck.trial.recorder import record_trial

Forward = Callable[[Any, torch.Tensor], Any]


class Net(nn.Module):
    """A few layers, put together by the forward that it is given."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.first, self.second, self.side = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.score = nn.Linear(32, 1)
        self.head = nn.Linear(32, 4)
        self.gate = nn.Parameter(torch.zeros(()))
        self.body = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))
        self.kept: Any = None
        self._forward_as = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self._forward_as(self, x)


def codes(make_bench: Any, forward: Forward, loss_fn: Any = F.cross_entropy, seed: int = 0, **keys: Any) -> list[Any]:
    def setup() -> dict[str, Any]:
        model = Net(forward)
        x = torch.randn(128, 16)
        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=32, shuffle=True),
            "loss_fn": loss_fn,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.05),
            **keys,
        }

    outcome = CHECK.run(record_trial(make_bench(setup, seed=seed), steps=12))
    return [(finding.code, finding.severity, finding.location) for finding in outcome.findings]


def skipped(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    model.second(h).relu()
    return model.head(h)


def skipped_chain(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    _ = model.body(model.second(h).relu())
    return model.head(h)


def gate_not_applied(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    _ = torch.sigmoid(model.side(h))
    return model.head(model.second(h).relu())


def residual_not_added(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    for layer in (model.second, model.body):
        out = layer(h).relu()
    return model.head(out)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("forward", "places"),
    [(skipped, ["second"]), (skipped_chain, ["second", "body"]), (gate_not_applied, ["side"]), (residual_not_added, ["second"])],
)  # fmt: skip
def test_what_is_computed_and_thrown_away_is_named(
    make_bench: Any, forward: Forward, places: list[str], seed: int
) -> None:
    assert codes(make_bench, forward, seed=seed) == [("SC0208", "fail", place) for place in places]


def test_an_output_of_another_shape_may_be_meant_for_other_uses(make_bench: Any) -> None:
    def scored(model: Any, x: torch.Tensor) -> Any:
        h = model.first(x).relu()
        model.score(h)
        return model.head(h)

    assert codes(make_bench, scored) == [("SC0208", "warn", "score")]


def returned_beside(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    return model.head(h), model.second(h)


def stored(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    model.kept = {"side": [model.second(h)]}
    return model.head(h)


def logged(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    model.kept = model.second(h).relu().mean().item()
    return model.head(h)


def only_in_eval(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    other = model.second(h).relu()
    return model.head(h) if model.training else model.head(h) + model.head(other)


def never_called(model: Any, x: torch.Tensor) -> Any:
    return model.head(model.first(x).relu())


def under_no_grad(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    with torch.no_grad():
        model.second(h)
    return model.head(h)


def closed_gate(model: Any, x: torch.Tensor) -> Any:
    h = model.first(x).relu()
    return model.head(h + model.gate * model.second(h).relu())


def first_of_outputs(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs[0] if isinstance(outputs, tuple) else outputs, targets)


@pytest.mark.parametrize(
    "forward", [returned_beside, stored, logged, only_in_eval, never_called, under_no_grad, closed_gate]
)
def test_what_is_returned_kept_or_dormant_is_nobodys_business(make_bench: Any, forward: Forward) -> None:
    assert codes(make_bench, forward, first_of_outputs) == []


def clamped(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, targets).clamp(max=0.5)


def capped(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return torch.minimum(F.cross_entropy(outputs, targets), torch.tensor(0.3))


def rounded(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(outputs.softmax(1).round(), F.one_hot(targets, 4).float())


def masked(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy(outputs, targets, reduction="none") * (targets < 0)).sum() / len(targets)


@pytest.mark.parametrize("loss_fn", [clamped, capped, rounded, masked])
def test_a_loss_that_is_flat_everywhere_is_named(make_bench: Any, loss_fn: Any) -> None:
    def two_layers(model: Any, x: torch.Tensor) -> Any:
        return model.head(model.second(model.first(x).relu()).relu())

    assert codes(make_bench, two_layers, loss_fn) == [("SC0209", "fail", None)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("flat", [torch.sign, torch.round, lambda h: h.clamp(7.0, 7.0) + h.sign()])
def test_a_step_in_the_middle_stops_what_comes_before_it(make_bench: Any, flat: Any, seed: int) -> None:
    def binary(model: Any, x: torch.Tensor) -> Any:
        return model.head(flat(model.second(model.first(x).relu())).relu())

    assert codes(make_bench, binary, seed=seed) == [("SC0209", "fail", "second")]


def test_a_loss_clamped_from_above_that_is_below_it_trains(make_bench: Any) -> None:
    def high(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets).clamp(max=50.0)

    assert codes(make_bench, never_called, high) == []


def test_straight_through_rounding_trains(make_bench: Any) -> None:
    def rounding(model: Any, x: torch.Tensor) -> Any:
        h = model.second(model.first(x).relu())
        return model.head(h + (h.round() - h).detach())

    assert codes(make_bench, rounding) == []


def test_weights_whose_gradients_a_hook_clears_are_kept_on_purpose(make_bench: Any) -> None:
    def setup_hooks(model: Any, x: torch.Tensor) -> Any:
        if not hasattr(model, "hooked"):
            model.hooked = [p.register_hook(torch.zeros_like) for p in model.first.parameters()]
        return model.head(model.first(x).relu())

    assert codes(make_bench, setup_hooks) == []


def test_a_gradient_left_from_an_earlier_training_is_none(make_bench: Any) -> None:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32))
            self.head = nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                h = self.body(x)
            return self.head(h)

    def setup() -> dict[str, Any]:
        model, x = Probe(), torch.randn(64, 16)
        model.body(x).square().mean().backward()
        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=32),
            "loss_fn": F.cross_entropy,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.05),
        }

    outcome = CHECK.run(record_trial(make_bench(setup), steps=12))

    assert [(f.code, f.location) for f in outcome.findings] == [("SC0202", "body")]
