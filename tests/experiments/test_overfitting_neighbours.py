"""What the nearest training samples tell and the model does not learn (SC1405)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Outcome
from stabcheck.experiments.overfitting import CHECK
from stabcheck.trial.neighbourhood import known_by_neighbours

Make = Callable[..., Any]


class Field(nn.Module):
    """A network on sines and cosines of random frequencies."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", torch.randn(2, 48) * frequency)
        self.net = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = 2 * torch.pi * x @ self.frequencies
        found: torch.Tensor = self.net(torch.cat([angles.sin(), angles.cos()], 1))
        return found


def field(frequency: float, seed: int, *, noise: bool = False) -> Callable[[], dict[str, Any]]:
    def entry() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(800, 2, generator=generator)
        y = (torch.sin(5 * x[:, :1]) * torch.cos(4 * x[:, 1:])).float()
        y = torch.randn(800, 1, generator=generator) if noise else y
        model = Field(frequency)
        train, val = (TensorDataset(x[part], y[part]) for part in (slice(0, 600), slice(600, None)))
        return {
            "model": model,
            "train_loader": DataLoader(train, 64, shuffle=True),
            "val_loader": DataLoader(val, 200),
            "loss_fn": F.mse_loss,
            "optimizer": torch.optim.Adam(model.parameters(), lr=5e-3),
            "max_steps": 300,
        }

    return entry


def codes(outcome: Outcome) -> dict[str, str]:
    return {finding.code: finding.severity for finding in outcome.findings}


@pytest.mark.parametrize("seed", range(3))
def test_frequencies_that_make_noise_of_the_inputs(make_bench: Make, seed: int) -> None:
    assert codes(CHECK.run(make_bench(field(80.0, seed), seed=seed))) == {"SC1405": "fail"}
    assert codes(CHECK.run(make_bench(field(1.0, seed), seed=seed))) == {}


def test_targets_that_neighbours_do_not_know_either(make_bench: Make) -> None:
    assert "SC1405" not in codes(CHECK.run(make_bench(field(80.0, 0, noise=True))))


def test_what_neighbours_know_is_counted(make_bench: Make) -> None:
    session = make_bench(field(1.0, 0)).session()
    known = known_by_neighbours(session, 0)
    (x, y), (vx, vy) = (loader.dataset.tensors for loader in (session.setup.train_loader, session.setup.val_loader))
    unit, mean = x.std(0, unbiased=False), y.mean(0)
    near = torch.cdist((vx - x.mean(0)) / unit, (x - x.mean(0)) / unit).topk(5, largest=False).indices
    slowly = 1 - (vy - y[near].mean(1)).square().sum() / (vy - mean).square().sum()
    assert known == pytest.approx(float(slowly), abs=1e-4)
