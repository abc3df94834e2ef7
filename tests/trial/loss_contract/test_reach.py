from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.loss_contract import CHECK

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ending(last: nn.Module, loss: Loss, targets: Callable[[torch.Tensor], torch.Tensor], outputs: int = 1) -> Any:
    """A set-up whose model ends in `last`; targets are made from normal numbers of shape (256, outputs)."""

    def setup() -> dict[str, Any]:
        inputs = torch.randn(256, 16)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs), last)
        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(inputs, targets(torch.randn(256, outputs))), batch_size=32),
            "loss_fn": loss,
            "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
            "max_steps": 100,
        }

    return setup


def codes(setup: Any, make_bench: Any, seed: int = 0) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in CHECK.run(make_bench(setup, seed=seed)).findings]


def classes(normal: torch.Tensor) -> torch.Tensor:
    return normal.argmax(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("last", "loss", "targets", "outputs"),
    [
        (nn.ReLU(), F.mse_loss, lambda t: t, 1),
        (nn.ReLU(inplace=True), F.l1_loss, lambda t: t - 1, 3),
        (nn.Sigmoid(), F.smooth_l1_loss, lambda t: 10 * t.abs(), 1),
        (nn.Tanh(), F.mse_loss, lambda t: 2 * t, 2),
        (nn.Softplus(), F.huber_loss, lambda t: t, 1),
        (nn.ReLU(), F.cross_entropy, classes, 5),
        (nn.ReLU(), F.binary_cross_entropy_with_logits, lambda t: (t > 0).float(), 1),
    ],
)
def test_targets_out_of_reach(
    last: nn.Module, loss: Loss, targets: Any, outputs: int, seed: int, make_bench: Any
) -> None:
    assert codes(ending(last, loss, targets, outputs), make_bench, seed) == [("SC1622", "fail")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("last", "loss", "targets", "outputs"),
    [
        (nn.ReLU(), F.mse_loss, lambda t: t.abs(), 1),
        (nn.Sigmoid(), F.mse_loss, lambda t: t.sigmoid() + 0.01 * t, 4),
        (nn.Tanh(), F.mse_loss, lambda t: t.clamp(-1.1, 1.1), 2),
        (nn.Softplus(), F.l1_loss, lambda t: t.exp(), 1),
        (nn.LeakyReLU(), F.mse_loss, lambda t: t, 1),
        (nn.Identity(), F.cross_entropy, classes, 5),
        (nn.Sequential(nn.ReLU(), nn.Linear(5, 5)), F.cross_entropy, classes, 5),
    ],
)
def test_targets_that_the_outputs_can_reach(
    last: nn.Module, loss: Loss, targets: Any, outputs: int, seed: int, make_bench: Any
) -> None:
    assert codes(ending(last, loss, targets, outputs), make_bench, seed) == []


def test_logits_that_are_pooled_after_their_relu_are_left_alone(make_bench: Any) -> None:
    head = nn.Sequential(nn.Unflatten(1, (1, 16)), nn.Conv1d(1, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())

    assert codes(ending(nn.Sequential(nn.Linear(1, 16), head), F.cross_entropy, classes, 1), make_bench) == []


def test_the_floor_is_that_of_the_nearest_outputs(make_bench: Any) -> None:
    setup = ending(nn.ReLU(), F.mse_loss, lambda t: t)
    (finding,) = CHECK.run(make_bench(setup)).findings

    torch.manual_seed(0)
    target = next(iter(make_bench(setup).session().setup.train_loader))[1]
    best = sum(min(float(t), 0.0) ** 2 for t in target.flatten()) / target.numel()
    assert f"cannot get below {best:.3g}," in finding.evidence["effect"]
