from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.training_loop import CHECK


class Latent(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
        self.mu, self.logvar = nn.Linear(64, 6), nn.Linear(64, 6)
        self.decoder = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 32))
        self.codes = nn.Embedding(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        mu, logvar = self.mu(h), self.logvar(h)
        noise = torch.randn_like(mu)
        kl = -0.05 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()
        if self.how == "detached":
            z = (mu + noise * (0.5 * logvar).exp()).detach()
        elif self.how == "data":
            z = mu.data + noise * (0.5 * logvar.data).exp()
        elif self.how == "codes":  # straight-through
            nearest = self.codes(torch.cdist(mu.detach(), self.codes.weight.detach()).argmin(1))
            kl = F.mse_loss(nearest, mu.detach()) + F.mse_loss(mu, nearest.detach())
            z = mu + (nearest - mu).detach()
        else:
            self.logged = mu.detach().mean()
            z = mu + noise * (0.5 * logvar).exp()
        return F.mse_loss(self.decoder(z), x, reduction="none").sum(1).mean() + kl


def codes(make_bench: Any, how: str, seed: int) -> list[tuple[str, str]]:
    def setup() -> dict[str, Any]:
        x = torch.tanh(torch.randn(128, 4) @ torch.randn(4, 32)) * 2
        model = Latent(how)
        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(x), batch_size=32, shuffle=True),
            "compute_loss": lambda model, batch: model(batch[0]),
            "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        }

    return [(finding.code, finding.severity) for finding in CHECK.run(make_bench(setup, seed=seed)).findings]


@pytest.mark.parametrize("how", ["detached", "data"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_latent_that_is_cut_off_from_the_decoder_is_named(make_bench: Any, how: str, seed: int) -> None:
    assert codes(make_bench, how, seed) == [("SC1516", "fail")]


@pytest.mark.parametrize("how", ["codes", "sound"])
@pytest.mark.parametrize("seed", [0, 1])
def test_straight_through_and_logged_values_are_sound(make_bench: Any, how: str, seed: int) -> None:
    assert codes(make_bench, how, seed) == []
