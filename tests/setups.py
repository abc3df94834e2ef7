"""Small set-ups that tests bend as they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def blobs(count: int = 512, features: int = 16, classes: int = 4, seed: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian clusters that a small network separates within a few dozen steps."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, features, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return centres[labels] + torch.randn(count, features, generator=generator), labels


def mlp(*, depth: int = 2, width: int = 32, activation: type[nn.Module] = nn.ReLU, features: int = 16) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(features if index == 0 else width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def classifier(
    model: Callable[[], nn.Module] = mlp, *, lr: float = 1e-2, optimizer: Any = torch.optim.Adam, **keys: Any
) -> Callable[[], dict[str, Any]]:
    """An entry function: `model` on blobs with cross-entropy; further keys as in a set-up."""

    def setup() -> dict[str, Any]:
        inputs, labels = blobs()
        network = model()
        return {
            "model": network,
            "train_loader": DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True),
            "loss_fn": F.cross_entropy,
            "optimizer": optimizer(network.parameters(), lr=lr),
            "max_steps": 500,
            **keys,
        }

    return setup
