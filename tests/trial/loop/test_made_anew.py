from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.training_loop import CHECK


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x).relu()
        if self.how == "layer":
            h = nn.Linear(32, 32)(h).relu()
        elif self.how == "parameter":
            h = h @ nn.Parameter(torch.randn(32, 32) * 0.2)
        elif self.how == "norm":
            h = nn.LayerNorm(32)(h)
        elif self.how == "dropout":
            h = nn.Dropout(0.1)(h)
        out: torch.Tensor = self.head(h)
        return out


def codes(make_bench: Any, how: str, seed: int) -> list[str]:
    def setup() -> dict[str, Any]:
        x = torch.randn(256, 16)
        model = Net(how)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def of_copy(batch: Any) -> float:
            """First-order meta-learning: gradients of an adapted copy, for the model."""
            fast = copy.deepcopy(model)
            inner = torch.optim.SGD(fast.parameters(), lr=0.1)
            F.cross_entropy(fast(batch[0][:16]), batch[1][:16]).backward()
            inner.step()
            inner.zero_grad()
            loss = F.cross_entropy(fast(batch[0][16:]), batch[1][16:])
            loss.backward()
            for p, q in zip(model.parameters(), fast.parameters(), strict=True):
                p.grad = q.grad
            optimizer.step()
            return loss.item()

        def of_head(batch: Any) -> float:
            """A head that is trained from scratch within each call."""
            head = nn.Linear(32, 4)
            inner = torch.optim.SGD(head.parameters(), lr=0.1)
            for _ in range(2):
                inner.zero_grad()
                F.cross_entropy(head(model.body(batch[0]).relu().detach()), batch[1]).backward()
                inner.step()
            optimizer.zero_grad()
            loss = F.cross_entropy(head(model.body(batch[0]).relu()), batch[1])
            loss.backward()
            optimizer.step()
            return loss.item()

        steps = {"copy": of_copy, "head": of_head}
        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=32, shuffle=True),
            "loss_fn": F.cross_entropy,
            "optimizer": optimizer,
            **({"train_step": steps[how]} if how in steps else {}),
        }

    return [finding.code for finding in CHECK.run(make_bench(setup, seed=seed)).findings]


@pytest.mark.parametrize("how", ["layer", "parameter"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_that_each_call_makes_for_itself_are_named(make_bench: Any, how: str, seed: int) -> None:
    assert codes(make_bench, how, seed) == ["SC1517"]


@pytest.mark.parametrize("how", ["", "norm", "dropout", "copy", "head"])
@pytest.mark.parametrize("seed", [0, 1])
def test_constants_copies_and_heads_of_an_inner_loop_are_meant(make_bench: Any, how: str, seed: int) -> None:
    assert codes(make_bench, how, seed) == []
