"""Autoregressive densities whose masks let an output see its own target, and their healthy relatives (SC1807)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.experiments.batch_independence import CHECK
from tests.experiments.dependence_cases import setup

Make = Callable[..., Any]


class MaskedConv(nn.Conv2d):
    def __init__(self, kind: str, first: int, last: int) -> None:
        super().__init__(first, last, 3, padding=1)
        self.mask: torch.Tensor
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 1 + (kind == "B") :], mask[:, :, 2:] = 0, 0
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


def pixels(kind: str, classes: int = 1) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(MaskedConv(kind, 1, 8), nn.ReLU(), MaskedConv("B", 8, classes))


class Made(nn.Module):
    """A mean and a spread for each column, from the columns before it."""

    def __init__(self, *, strict: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 40), nn.Linear(40, 12)
        inputs, hidden = torch.arange(6), torch.arange(40) % 5
        last = inputs[:, None] > hidden if strict else inputs[:, None] >= hidden
        for layer, mask in ((self.first, hidden[:, None] >= inputs), (self.last, last.repeat(2, 1))):
            layer.register_buffer("mask", mask.float())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = F.linear(x, self.first.weight * self.first.mask, self.first.bias).tanh()
        return F.linear(h, self.last.weight * self.last.mask, self.last.bias).chunk(2, 1)


class Pruned(nn.Module):
    """An autoencoder, some weights of which are masked for good."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(6, 4), nn.Linear(4, 6)
        self.down.register_buffer("mask", (torch.rand(4, 6) < 0.7).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.up(F.linear(x, self.down.weight * self.down.mask, self.down.bias))
        return found


class Causal(nn.Conv1d):
    """A causal autoencoder of signals: no mask says that a place must not be seen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (2, 0)))


def entry(make: Callable[[], nn.Module], x: torch.Tensor, loss: Any) -> Any:
    return setup(make, x, compute_loss=lambda model, batch: loss(model(batch[0]), batch[0]))


def said(outputs: tuple[torch.Tensor, ...], x: torch.Tensor) -> torch.Tensor:
    mean, spread = outputs
    return (0.5 * ((x - mean) * (-spread).exp()).square() + spread).sum(1).mean()


def of_classes(outputs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, (x[:, 0] * 3).long())


TABLE = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
PICTURES = (torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()
GREY = torch.randint(0, 4, (96, 1, 8, 8), generator=torch.Generator().manual_seed(1)) / 3.0
CASES: dict[str, tuple[Any, bool]] = {
    "type B first": (entry(pixels("B"), PICTURES, F.binary_cross_entropy_with_logits), True),
    "type A first": (entry(pixels("A"), PICTURES, F.binary_cross_entropy_with_logits), False),
    "classes, type B": (entry(pixels("B", 4), GREY, of_classes), True),
    "classes, type A": (entry(pixels("A", 4), GREY, of_classes), False),
    "columns, not strict": (entry(lambda: Made(strict=False), TABLE, said), True),
    "columns, strict": (entry(lambda: Made(strict=True), TABLE, said), False),
    "pruned autoencoder": (entry(Pruned, TABLE, F.mse_loss), False),
    "causal autoencoder": (entry(lambda: Causal(1, 1, 3), PICTURES.flatten(2), F.mse_loss), False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_place_that_is_told_from_itself(make_bench: Make, name: str) -> None:
    setup_of, is_faulty = CASES[name]
    for seed in range(3):
        found = {f.code: f.severity for f in CHECK.run(make_bench(setup_of, seed=seed)).findings}
        assert found == ({"SC1807": "fail"} if is_faulty else {})
