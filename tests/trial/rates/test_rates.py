from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from setups import blobs, classifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.trial.bench import Bench
from stabcheck.trial.rates.probes import run_probe
from stabcheck.trial.rates.scaled import RatePlan, ScaledRates
from stabcheck.trial.recorder import record_trial
from stabcheck.trial.session import Session


def weights(session: Session) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in session.model.parameters()])


def step_once(bench: Bench, factor: float, plan: RatePlan | None = None) -> torch.Tensor:
    session = bench.session()
    before = weights(session)
    rates = ScaledRates(session, plan or RatePlan(), factor)
    with rates.active():
        session.step(session.first_batch())
    assert rates.any
    assert rates.steps == 1
    return weights(session) - before


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_bent_step_is_the_step_times_the_factor(make_bench: Callable[..., Bench], optimizer: Any) -> None:
    bench = make_bench(classifier(optimizer=optimizer))
    assert torch.allclose(step_once(bench, 0.1), 0.1 * step_once(bench, 1.0), rtol=1e-3, atol=1e-7)


def test_a_ramp_starts_at_its_share_of_the_peak(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(classifier(optimizer=torch.optim.SGD))
    ramped = step_once(bench, 1.0, RatePlan((0.5,), 4))  # the set-up has 0.01
    assert torch.allclose(ramped, 0.5 / 4 / 0.01 * step_once(bench, 1.0), rtol=1e-3, atol=1e-7)


def test_schedulers_go_on_from_the_rates_they_know(make_bench: Callable[..., Bench]) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier(lr=0.1)()
        parts["scheduler"] = torch.optim.lr_scheduler.ExponentialLR(parts["optimizer"], 0.5)
        return {**parts, "scheduler_interval": "step"}

    session = make_bench(setup).session()
    with ScaledRates(session, RatePlan(), 100.0).active():
        for _ in range(3):
            session.step(session.first_batch())
    assert session.learning_rates() == pytest.approx((0.1 * 0.5**3,))


def test_an_optimizer_inside_another_is_bent_once(make_bench: Callable[..., Bench]) -> None:
    seen: list[float] = []

    class Inner(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            seen.append(self.param_groups[0]["lr"])
            super().step(closure)

    class Outer(torch.optim.SGD):
        def __init__(self, parameters: Any, lr: float) -> None:
            super().__init__(parameters, lr)
            self.inner = Inner([torch.zeros(1)], lr)
            self.inner.param_groups = self.param_groups

        def step(self, closure: Any = None) -> None:
            self.inner.step(closure)

    session = make_bench(classifier(optimizer=Outer, lr=0.5)).session()
    with ScaledRates(session, RatePlan(), 0.1).active():
        session.step(session.first_batch())
    assert seen == [pytest.approx(0.05)]


def test_a_rate_is_put_back_when_a_step_raises(make_bench: Callable[..., Bench]) -> None:
    class Breaks(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise ValueError

    session = make_bench(classifier(optimizer=Breaks, lr=0.5)).session()
    with pytest.raises(Exception, match="ValueError"), ScaledRates(session, RatePlan(), 0.1).active():
        session.step(session.first_batch())
    assert session.learning_rates() == (0.5,)


def test_an_unbent_probe_is_the_trial_itself(make_bench: Callable[..., Bench]) -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))

    bench = make_bench(classifier(dropping))
    plain = record_trial(bench, steps=12).losses
    assert run_probe(bench, RatePlan(), 1.0, 12).losses == plain
    assert run_probe(bench, RatePlan(), 1.0, 12, search_at=(1, 6)).losses == plain
    assert run_probe(bench, RatePlan(), 1.0, 12, repeat=1).losses != plain


@pytest.mark.parametrize("curvature", [0.5, 3.0, 40.0])
def test_the_edge_of_a_parabola_is_two_over_its_curvature(make_bench: Callable[..., Bench], curvature: float) -> None:
    def setup() -> dict[str, Any]:
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        data = TensorDataset(torch.ones(8, 1), torch.zeros(8, 1))
        return {
            "model": model,
            "train_loader": DataLoader(data, batch_size=4),
            "loss_fn": lambda outputs, targets: 0.5 * curvature * (outputs - targets).square().mean(),
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.02),
        }

    (edge,) = run_probe(make_bench(setup), RatePlan((0.02,)), 1.0, 2, search_at=(1,)).edges
    assert math.log(0.02 * edge.bears / (2 / curvature)) == pytest.approx(0, abs=math.log(2))


def test_a_step_without_torch_optimizer_says_so(make_bench: Callable[..., Bench]) -> None:
    def setup() -> dict[str, Any]:
        inputs, labels = blobs()
        model = nn.Linear(16, 4)

        def train_step(batch: Any) -> float:
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
            return float(loss)

        loader = DataLoader(TensorDataset(inputs, labels), batch_size=32)
        return {"model": model, "train_loader": loader, "train_step": train_step}

    assert "no torch optimizer" in run_probe(make_bench(setup), RatePlan(), 1.0, 3).why_not
