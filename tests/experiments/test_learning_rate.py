from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from setups import blobs, classifier, mlp
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.learning_rate import CHECK, NO_GROUND
from stabcheck.trial.bench import Bench
from stabcheck.trial.recorder import record_trial

MakeBench = Callable[..., Bench]


def judged(make_bench: MakeBench, setup: Callable[[], Any], seed: int = 0) -> Outcome:
    bench = make_bench(setup, seed=seed)
    bench.recording = record_trial(bench, steps=40)
    return CHECK.run(bench)


def deep() -> nn.Module:
    return mlp(depth=4)


def codes(outcome: Outcome) -> list[str]:
    return [f"{f.code} {f.severity}" for f in outcome.findings]


def with_warmup(lr: float, steps: int) -> Callable[[], dict[str, Any]]:
    def setup() -> dict[str, Any]:
        parts = classifier(deep, lr=lr)()
        schedule = torch.optim.lr_scheduler.LinearLR(parts["optimizer"], 1e-3, 1.0, steps)
        return {**parts, "scheduler": schedule, "scheduler_interval": "step", "max_steps": 2000}

    return setup


def own_step(lr: float) -> Callable[[], dict[str, Any]]:
    """A whole step of the user's own, with a scheduler inside that rewrites the rate."""

    def setup() -> dict[str, Any]:
        parts = classifier(deep, lr=lr)()
        model, optimizer = parts["model"], parts["optimizer"]
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)

        def train_step(batch: Any) -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            scheduler.step()
            return loss

        return {**parts, "scheduler": scheduler, "scheduler_interval": "step", "train_step": train_step}

    return setup


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [lambda lr: classifier(deep, lr=lr), own_step], ids=["textbook", "own step"])
def test_a_rate_that_kills_the_network_is_too_high(make_bench: MakeBench, make: Any, seed: int) -> None:
    outcome = judged(make_bench, make(10.0), seed)
    assert codes(outcome) == ["SC1201 fail"]
    (finding,) = outcome.findings
    assert finding.evidence["better"] <= 0.1
    assert finding.evidence["good"] < 0.5 * finding.evidence["constant"]


@pytest.mark.parametrize("seed", range(3))
def test_a_rate_at_which_the_run_gets_nowhere_is_too_low(make_bench: MakeBench, seed: int) -> None:
    outcome = judged(make_bench, classifier(lr=1e-7), seed)
    assert codes(outcome) == ["SC1202 fail"]
    (finding,) = outcome.findings
    assert 1e-4 <= finding.evidence["better"] <= 1
    # The whole run, really made, confirms what the probe at the equivalent rate said.
    session = make_bench(classifier(lr=1e-7), seed=seed).session()
    losses = [session.step(batch) for (_, batch), _ in zip(session.train_batches(), range(500), strict=False)]
    assert sum(losses[:10]) - sum(losses[-10:]) < NO_GROUND * sum(losses[:10])


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_rates_within_a_decade_of_the_best_are_healthy(make_bench: MakeBench, rate: float) -> None:
    outcome = judged(make_bench, classifier(deep, lr=rate))
    assert not outcome.findings
    assert outcome.measurements["curves"]


def test_the_same_low_rate_is_healthy_in_a_run_that_is_long_enough(make_bench: MakeBench) -> None:
    assert codes(judged(make_bench, classifier(lr=1e-5, max_steps=200))) == ["SC1202 fail"]
    assert not judged(make_bench, classifier(lr=1e-5, max_steps=50_000)).findings


def test_without_a_planned_length_no_rate_is_too_low(make_bench: MakeBench) -> None:
    outcome = judged(make_bench, classifier(lr=1e-7, max_steps=None))
    assert not outcome.findings
    assert any("max_steps" in item.why for item in outcome.not_checked)


def test_a_long_warmup_is_gone_through(make_bench: MakeBench) -> None:
    assert not judged(make_bench, with_warmup(1e-2, 500)).findings
    assert codes(judged(make_bench, with_warmup(30.0, 500))) == ["SC1201 fail"]


def test_the_scale_of_the_loss_does_not_matter(make_bench: MakeBench) -> None:
    for scale in (1e-5, 1e5):
        setup = classifier(
            lr=0.05 / scale, optimizer=torch.optim.SGD, loss_fn=lambda o, t, s=scale: s * F.cross_entropy(o, t)
        )
        assert not judged(make_bench, setup).findings
        setup = classifier(
            lr=1e3 / scale, optimizer=torch.optim.SGD, loss_fn=lambda o, t, s=scale: s * F.cross_entropy(o, t)
        )
        assert codes(judged(make_bench, setup)) == ["SC1201 fail"]


def test_momentum_is_named_as_part_of_the_rate(make_bench: MakeBench) -> None:
    def heavy(parameters: Any, lr: float) -> Any:
        return torch.optim.SGD(parameters, lr=lr, momentum=0.99)

    (finding,) = judged(make_bench, classifier(deep, lr=3.0, optimizer=heavy)).findings
    assert finding.code == "SC1201"
    assert "momentum 0.99 makes it act like 300" in finding.message


def test_rates_of_optimizers_that_choose_their_own_are_healthy(make_bench: MakeBench) -> None:
    for optimizer in (torch.optim.Adadelta, torch.optim.Rprop, torch.optim.Adafactor):
        rate = 1.0 if optimizer is torch.optim.Adadelta else 0.01
        assert not judged(make_bench, classifier(lr=rate, optimizer=optimizer)).findings


def test_a_network_that_no_rate_can_train_is_no_matter_of_the_rate(make_bench: MakeBench) -> None:
    def dead() -> nn.Module:
        model = mlp()
        nn.init.constant_(model[0].bias, -1e3)
        return model

    assert not judged(make_bench, classifier(dead)).findings


def test_a_step_without_loss_is_a_skip(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = own_step(0.01)()
        step = parts["train_step"]
        return {**parts, "train_step": lambda batch: step(batch) and None}

    with pytest.raises(Skip, match="loss"):
        judged(make_bench, setup)


def test_a_scheduler_that_raises_is_left_to_its_own_check(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier()()

        def factor(step: int) -> float:
            return 1.0 if step < 45 else 1 / 0

        schedule = torch.optim.lr_scheduler.LambdaLR(parts["optimizer"], factor)
        return {**parts, "scheduler": schedule, "scheduler_interval": "step"}

    assert not judged(make_bench, setup).findings


def mostly_noise(lr: float) -> Callable[[], dict[str, Any]]:
    """Half of the labels are random, so that the best that can be learnt is a quarter of the way to a perfect fit."""

    def setup() -> dict[str, Any]:
        keys = classifier()()
        net = deep()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        inputs, labels = blobs(2048)
        noise = torch.Generator().manual_seed(0)
        drawn = torch.randint(0, 4, labels.shape, generator=noise)
        noisy = torch.where(torch.rand(labels.shape, generator=noise) < 0.47, drawn, labels)
        loader = DataLoader(TensorDataset(inputs, noisy), batch_size=64, shuffle=True)
        return {**keys, "model": net, "optimizer": optimizer, "train_loader": loader}

    return setup


@pytest.mark.parametrize(("lr", "expected"), [(1.0, ["SC1201 fail"]), (1e-2, [])])
def test_a_rate_is_too_high_where_no_lower_one_gets_far_in_a_few_dozen_steps(
    lr: float, expected: list[str], make_bench: Any
) -> None:
    assert codes(judged(make_bench, mostly_noise(lr))) == expected


def test_a_rate_that_trains_although_its_updates_overshoot_is_not_called_too_high(make_bench: MakeBench) -> None:
    """A pass never says that only less of the rate "would still lower the loss"."""

    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    outcome = judged(make_bench, classifier(normed, optimizer=torch.optim.AdamW, lr=3.0))

    assert outcome.findings == ()
    assert outcome.measurements["margin"] > 1
    assert "training makes way at it (loss " in outcome.summary
