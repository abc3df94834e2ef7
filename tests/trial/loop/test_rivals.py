"""A judge's parameters in the optimizer of who is judged (SC1525), and optimizers that share parameters for good reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.training_loop import CHECK
from tests.setups import blobs

Make = Callable[..., Any]
Losses = tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]

LOSSES: dict[str, Losses] = {
    "logistic": (
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake: F.softplus(-fake).mean(),
    ),
    "wasserstein": (lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
    "hinge": (lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), lambda fake: -fake.mean()),
}


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16))
        self.judge = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.coder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        self.critic = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.judge(x)


def entry(step_of: Callable[[Parts], Callable[[torch.Tensor], torch.Tensor]]) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        model = Parts()
        step = step_of(model)
        loader = DataLoader(TensorDataset(blobs(256)[0] / 10), batch_size=32, shuffle=True)
        return {"model": model, "train_loader": loader, "train_step": lambda batch: step(batch[0]), "max_steps": 200}

    return build


def adam(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for module in modules for p in module.parameters()], lr=1e-3)


def taken(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def players(loss: str, held: Callable[[Parts], tuple[nn.Module, ...]], *, frozen: bool = False) -> Any:
    judged, made = LOSSES[loss]

    def step_of(model: Parts) -> Any:
        first, second = adam(model.judge), adam(*held(model))

        def step(x: torch.Tensor) -> torch.Tensor:
            fake = model.maker(torch.randn(len(x), 4))
            taken(first, judged(model.judge(x), model.judge(fake.detach())))
            model.judge.requires_grad_(not frozen)
            loss = taken(second, made(model.judge(fake)))
            model.judge.requires_grad_(True)
            return loss

        return step

    return entry(step_of)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_a_judge_that_is_moved_by_who_it_judges(loss: str, seed: int, make_bench: Make) -> None:
    (finding,) = CHECK.run(make_bench(players(loss, lambda m: (m.maker, m.judge)), seed=seed)).findings

    assert (finding.code, finding.severity, finding.location) == ("SC1525", "fail", "judge")
    assert finding.evidence["count"] == 4
    assert finding.evidence["own"] == "maker"
    assert finding.evidence["share"] > 0.5


@pytest.mark.parametrize("loss", LOSSES)
def test_each_player_with_its_own(loss: str, make_bench: Make) -> None:
    assert not CHECK.run(make_bench(players(loss, lambda m: (m.maker,)))).findings
    assert not CHECK.run(make_bench(players(loss, lambda m: (m.maker, m.judge), frozen=True))).findings


@pytest.mark.parametrize("seed", range(3))
def test_parts_that_two_optimizers_train_on_purpose(seed: int, make_bench: Make) -> None:
    def adversarial_autoencoder(model: Parts) -> Any:
        whole, judge, coder = adam(model.coder, model.maker), adam(model.critic), adam(model.coder)
        judged, made = LOSSES["logistic"]

        def step(x: torch.Tensor) -> torch.Tensor:
            loss = taken(whole, F.mse_loss(model.maker(model.coder(x)), x))
            code = model.coder(x)
            taken(judge, judged(model.critic(torch.randn_like(code)), model.critic(code.detach())))
            taken(coder, made(model.critic(code)))
            return loss

        return step

    def one_after_the_other(model: Parts) -> Any:
        head, whole = adam(model.critic), adam(model.coder, model.critic)

        def step(x: torch.Tensor) -> torch.Tensor:
            taken(head, F.mse_loss(model.critic(model.coder(x).detach()), x[:, :1]))
            return taken(whole, F.mse_loss(model.critic(model.coder(x)), x[:, :1]))

        return step

    for step_of in (adversarial_autoencoder, one_after_the_other):
        assert not CHECK.run(make_bench(entry(step_of), seed=seed)).findings
