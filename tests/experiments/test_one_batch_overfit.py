from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Skip
from stabcheck.experiments.one_batch_overfit import CHECK
from tests.setups import blobs, classifier, mlp


def codes(bench: Any) -> list[str]:
    return [f.code for f in CHECK.run(bench).findings]


def with_dropout(p: float) -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 4))


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mu, self.logvar = nn.Linear(16, 32), nn.Linear(32, 4), nn.Linear(32, 4)
        self.dec = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16))


def elbo(model: nn.Module, batch: Any) -> torch.Tensor:
    h = F.relu(model.enc(batch[0]))
    mu, logvar = model.mu(h), model.logvar(h)
    out = model.dec(mu + torch.randn_like(mu) * (0.5 * logvar).exp())
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()
    return F.mse_loss(out, batch[0], reduction="none").sum(1).mean() + kl


def contrastive(model: nn.Module, batch: Any) -> torch.Tensor:
    a, b = (F.normalize(model(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1) for _ in range(2))
    return F.cross_entropy(a @ b.T / 0.5, torch.arange(len(a)))


def gaussian_nll(model: nn.Module, batch: Any) -> torch.Tensor:
    mean, log_std = model(batch[0])[:, :2].unbind(1)
    return (log_std + 0.5 * ((batch[0][:, 0] - mean) / log_std.exp()).square()).mean()


class SparseTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(50, 16, sparse=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.table((x.abs() * 10).long() % 50).mean(1))


def slope(model: nn.Module, batch: Any) -> torch.Tensor:
    """A loss that differentiates by its input, as a physics-informed one does."""
    x = batch[0].clone().requires_grad_()
    gradient = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
    return (gradient - batch[0].cos() + 0.01 * torch.randn(())).square().mean()


HEALTHY: dict[str, dict[str, Any]] = {
    "sparse embedding": {"model": SparseTable, "optimizer": torch.optim.SGD, "lr": 0.5},
    "loss of a derivative": {"model": lambda: mlp(activation=nn.Tanh), "loss_fn": None, "compute_loss": slope},
    "mlp": {},
    "sgd": {"optimizer": torch.optim.SGD, "lr": 0.1},
    "label smoothing": {"loss_fn": nn.CrossEntropyLoss(label_smoothing=0.2)},
    "huge loss scale": {"loss_fn": lambda o, t: 1e6 * F.cross_entropy(o, t)},
    "tiny loss scale": {"loss_fn": lambda o, t: 1e-6 * F.cross_entropy(o, t)},
    "sum reduction": {"loss_fn": nn.CrossEntropyLoss(reduction="sum"), "optimizer": torch.optim.SGD, "lr": 1e-3},
    "dropout": {"model": lambda: with_dropout(0.5)},
    "vae": {"model": Vae, "loss_fn": None, "compute_loss": elbo},
    "contrastive": {"loss_fn": None, "compute_loss": contrastive},
    "density that can go below zero": {"loss_fn": None, "compute_loss": gaussian_nll},
    "small rate, long run": {"lr": 1e-5, "max_steps": 100_000},
    "accumulation": {"accumulate_steps": 4},
    "clipped": {"clip_grad_norm": 1e-2},
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", [0, 1])
def test_healthy_set_ups_fit(make_bench: Any, name: str, seed: int) -> None:
    keys = dict(HEALTHY[name])
    outcome = CHECK.run(make_bench(classifier(keys.pop("model", mlp), **keys), seed=seed))

    assert outcome.findings == ()
    assert "your optimizer" in outcome.measurements["curves"]


class IgnoresInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(torch.ones_like(x))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).detach()


def noise_mismatch(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.mse_loss(model(torch.randn(len(batch[0]), 16)), torch.randn(len(batch[0]), 4))


def rectified() -> nn.Module:
    """Outputs that can never be below zero, for targets that are."""
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4), nn.ReLU())


def negative_targets(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(outputs, -5.0 * F.one_hot(labels, 4))


def broadcast(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(outputs[:, :1], labels.float())


FAULTY: dict[str, tuple[str, dict[str, Any]]] = {
    "logarithm of nothing": ("SC0111", {"loss_fn": lambda o, t: F.cross_entropy(o, t) - torch.zeros(()).log()}),
    "broadcast in compute_loss": ("SC0103", {"loss_fn": None, "compute_loss": lambda m, b: broadcast(m(b[0]), b[1])}),
    "inputs ignored": ("SC0101", {"model": IgnoresInput}),
    "broadcast loss": ("SC0103", {"loss_fn": broadcast}),
    "detached": ("SC0104", {"model": Detached}),
    "nothing trainable": ("SC0104", {"model": lambda: mlp().requires_grad_(False)}),
    "ReLU on the output": ("SC0105", {"model": rectified, "loss_fn": negative_targets}),
    "dropout .98 twice": ("SC0106", {"model": lambda: nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.98), nn.ReLU(), nn.Linear(64, 16), nn.Dropout(0.98), nn.Linear(16, 4))}),  # noqa: E501
    "unrelated noise": ("SC0106", {"loss_fn": None, "compute_loss": noise_mismatch}),
    "rate too high": ("SC0108", {"optimizer": torch.optim.SGD, "lr": 100.0}),
    "rate too low": ("SC0109", {"lr": 1e-9}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_fault_is_named(make_bench: Any, name: str, seed: int) -> None:
    expected, keys = FAULTY[name][0], dict(FAULTY[name][1])

    assert codes(make_bench(classifier(keys.pop("model", mlp), **keys), seed=seed)) == [expected]


def test_equal_inputs_with_different_labels_are_counted(make_bench: Any) -> None:
    inputs = torch.ones(64, 16)
    labels = torch.arange(64) % 4
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=16)
    (finding,) = CHECK.run(make_bench(classifier(train_loader=loader))).findings

    assert (finding.code, finding.evidence["count"]) == ("SC0102", 16)


def test_an_optimizer_on_another_model_is_named(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        return {**classifier()(), "optimizer": torch.optim.Adam(mlp().parameters(), lr=1e-2)}

    (finding,) = CHECK.run(make_bench(setup)).findings

    assert finding.code == "SC0107"
    assert "none of the model's parameters" in finding.message


def test_a_step_that_zeroes_half_its_work_is_the_steps_fault(make_bench: Any) -> None:
    """A wrong order in the user's own step, which no rate mends, is told apart from a wrong rate."""

    def setup() -> dict[str, Any]:
        made = classifier()()
        network, optimizer = made["model"], made["optimizer"]

        def train_step(batch: Any) -> torch.Tensor:
            loss = F.cross_entropy(network(batch[0]), batch[1])
            (-loss).backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return {**made, "train_step": train_step}

    assert codes(make_bench(setup)) == ["SC0110"]


def test_the_rate_that_would_fit_is_found(make_bench: Any) -> None:
    (finding,) = CHECK.run(make_bench(classifier(lr=1e-9))).findings

    assert 1e-4 <= finding.evidence["better"] <= 1.0
    assert f"{finding.evidence['better']:.3g}" in finding.fix


def test_the_planned_peak_is_tried_and_not_the_first_warm_up_value(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        made = classifier(lr=1e-2)()
        scheduler = torch.optim.lr_scheduler.LambdaLR(made["optimizer"], lambda step: min(1.0, (step + 1) / 200))
        return {**made, "scheduler": scheduler, "scheduler_interval": "step"}

    bench = make_bench(setup)
    outcome = CHECK.run(bench)

    assert outcome.findings == ()
    assert bench.peak_rates() == pytest.approx((1e-2,))


def test_pure_noise_labels_are_still_memorised(make_bench: Any) -> None:
    """Memorising is the question, not generalising: random labels fit."""
    inputs, labels = blobs()
    loader = DataLoader(TensorDataset(inputs, labels[torch.randperm(len(labels))]), batch_size=32)

    assert codes(make_bench(classifier(train_loader=loader))) == []


def test_own_step_alone_leaves_half_the_question_open(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        made = classifier()()
        network, optimizer = made["model"], made["optimizer"]

        def train_step(batch: Any) -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            return float(loss)

        return {**made, "loss_fn": None, "train_step": train_step}

    outcome = CHECK.run(make_bench(setup))

    assert outcome.findings == ()
    assert [item.what for item in outcome.not_checked] == ["whether the model can fit one batch at all"]


def test_without_an_optimizer_the_own_half_is_not_checked(make_bench: Any) -> None:
    setup = classifier()
    outcome = CHECK.run(make_bench(lambda: {**setup(), "optimizer": None}))

    assert outcome.findings == ()
    assert any("your own optimizer" in item.what for item in outcome.not_checked)


def test_neither_loss_nor_optimizer_is_a_skip(make_bench: Any) -> None:
    setup = classifier()
    with pytest.raises(Skip):
        CHECK.run(make_bench(lambda: {**setup(), "optimizer": None, "loss_fn": None, "train_step": lambda b: None}))


def test_levels_are_those_of_the_very_batch(make_bench: Any) -> None:
    """The constant level of the measurement is the label entropy of the sixteen samples that were fitted."""
    inputs, labels = blobs()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=32)
    measured = CHECK.run(make_bench(classifier(train_loader=loader))).measurements
    shares = torch.bincount(labels[:16]) / 16
    entropy = -sum(float(p) * math.log(p) for p in shares if p > 0)

    assert measured["samples"] == 16
    assert measured["constant"] == pytest.approx(entropy, abs=1e-3)


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        self.judge = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, count: int) -> torch.Tensor:
        made: torch.Tensor = self.maker(torch.randn(count, 4))
        return made


@pytest.mark.parametrize("seed", range(3))
def test_optimizers_that_work_against_each_other_are_not_judged(make_bench: Any, seed: int) -> None:
    def setup() -> dict[str, Any]:
        real = torch.randn(256, 2, generator=torch.Generator().manual_seed(1)) + 3
        model = Adversaries()
        makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-3) for part in (model.maker, model.judge))

        def deceives(model: Adversaries, batch: tuple[torch.Tensor]) -> torch.Tensor:
            return F.softplus(-model.judge(model(len(batch[0])))).mean()

        def train_step(batch: tuple[torch.Tensor]) -> float:
            judges.zero_grad()
            fake = model(len(batch[0])).detach()
            (F.softplus(-model.judge(batch[0])).mean() + F.softplus(model.judge(fake)).mean()).backward()
            judges.step()
            makes.zero_grad()
            loss = deceives(model, batch)
            loss.backward()
            makes.step()
            return loss.item()

        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(real), batch_size=32, shuffle=True),
            "compute_loss": deceives,
            "optimizer": makes,
            "train_step": train_step,
            "max_steps": 1500,
        }

    outcome = CHECK.run(make_bench(setup, seed=seed))

    assert not outcome.findings
    assert any("2 optimizers" in item.why for item in outcome.not_checked)


def penalised(weight: float, *, learnt: bool = False) -> Any:
    """Cross-entropy with a penalty on all weights, or divided by a scale that is learnt."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.log_scale = mlp(), nn.Parameter(torch.zeros(()))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(inputs)
            return out

    def loss(model: Any, batch: Any) -> torch.Tensor:
        error = nn.functional.cross_entropy(model(batch[0]), batch[1])
        if learnt:
            return error * (-model.log_scale).exp() + model.log_scale
        return error + weight * sum(p.square().sum() for p in model.net.parameters())

    return lambda: {**classifier(Scaled)(), "loss_fn": None, "compute_loss": loss}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_penalty_that_outweighs_what_there_is_to_learn(seed: int, make_bench: Any) -> None:
    (finding,) = CHECK.run(make_bench(penalised(1.0), seed=seed)).findings

    assert (finding.code, finding.severity) == ("SC0113", "fail")
    assert finding.evidence["final"] < 0.5 * finding.evidence["first"]
    # The weights are nearly gone: what is left is the guess.
    assert finding.evidence["constant"] == pytest.approx(finding.evidence["final"], rel=0.2)


@pytest.mark.parametrize("setup", [penalised(1e-3), penalised(0.01), penalised(0.0, learnt=True)])
def test_a_penalty_beside_which_something_is_learnt_is_no_fault(setup: Any, make_bench: Any) -> None:
    for seed in (0, 1):
        assert CHECK.run(make_bench(setup, seed=seed)).findings == ()
