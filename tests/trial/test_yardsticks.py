from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.recording import Yardsticks
from stabcheck.trial.yardsticks import measure

TARGETS = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1] * 8)
COUNTS = torch.tensor([4, 3, 1]) / 8
ENTROPY = float(-(COUNTS * COUNTS.log()).sum())


def levels(make_bench: Any, **keys: Any) -> Yardsticks:
    session = make_bench(lambda: keys).session()
    return measure(session, list(session.epoch()), 0)


def loader(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
    return DataLoader(TensorDataset(inputs, targets), batch_size=32)


def test_cross_entropy_is_between_label_entropy_and_zero(make_bench: Any) -> None:
    found = levels(
        make_bench, model=nn.Linear(5, 3), train_loader=loader(torch.randn(64, 5), TARGETS), loss_fn=F.cross_entropy
    )

    assert found.constant == pytest.approx(ENTROPY, abs=1e-3)
    assert found.zero == pytest.approx(math.log(3), abs=1e-5)
    assert found.oracle == pytest.approx(0, abs=2e-3)


def test_label_smoothing_has_a_floor(make_bench: Any) -> None:
    found = levels(
        make_bench, model=nn.Linear(5, 3), train_loader=loader(torch.randn(64, 5), TARGETS),
        loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1),
    )  # fmt: skip
    smoothed = torch.tensor([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])

    assert found.oracle == pytest.approx(float(-(smoothed * smoothed.log()).sum()), abs=2e-3)


def test_squared_error_lies_between_variance_and_zero(make_bench: Any) -> None:
    targets = torch.randn(64, 1) * 3 + 5
    found = levels(
        make_bench, model=nn.Linear(5, 1), train_loader=loader(torch.randn(64, 5), targets), loss_fn=F.mse_loss
    )

    assert found.constant == pytest.approx(float(targets.var(unbiased=False)), rel=1e-3)
    assert found.zero == pytest.approx(float(targets.pow(2).mean()), rel=1e-4)
    assert found.oracle == pytest.approx(0, abs=2e-2)


def test_compute_loss_gives_the_same_levels_through_the_model(make_bench: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    found = levels(
        make_bench, model=model, train_loader=loader(torch.randn(64, 5), TARGETS),
        compute_loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
    )  # fmt: skip

    assert found.constant == pytest.approx(ENTROPY, abs=2e-3)
    assert found.zero == pytest.approx(math.log(3), abs=1e-5)
    assert found.oracle == pytest.approx(0, abs=1e-2)


def test_every_head_is_held_constant(make_bench: Any) -> None:
    """With two heads the constant level is the sum of both best constants, not that of the last head alone."""

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.kind, self.size = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = torch.tanh(self.trunk(x))
            return self.kind(h), self.size(h)[:, 0]

    values = TARGETS.float() * 10
    model = TwoHeads()

    def compute_loss(m: nn.Module, batch: Any) -> torch.Tensor:
        kind, size = m(batch[0])
        return F.cross_entropy(kind, batch[1]) + F.mse_loss(size, batch[1].float() * 10)

    found = levels(make_bench, model=model, train_loader=loader(torch.randn(64, 5), TARGETS), compute_loss=compute_loss)

    assert found.constant == pytest.approx(ENTROPY + float(values.var(unbiased=False)), rel=1e-2)


def test_a_broadcast_loss_cannot_tell_constant_from_best(make_bench: Any) -> None:
    found = levels(
        make_bench, model=nn.Linear(5, 1), train_loader=loader(torch.randn(32, 5), torch.randn(32)), loss_fn=F.mse_loss
    )

    assert found.oracle == pytest.approx(found.constant, rel=1e-3)


def test_a_blown_up_model_does_not_spoil_the_levels(make_bench: Any) -> None:
    model = nn.Linear(5, 3)
    nn.init.normal_(model.weight, std=1e12)
    found = levels(make_bench, model=model, train_loader=loader(torch.randn(64, 5), TARGETS), loss_fn=F.cross_entropy)

    assert found.constant == pytest.approx(ENTROPY, abs=1e-2)


def test_measuring_leaves_the_model_as_it_was(make_bench: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    session = make_bench(
        lambda: {"model": model, "train_loader": loader(torch.randn(64, 5), TARGETS), "loss_fn": F.cross_entropy}
    ).session()
    kept = list(session.epoch())
    state = torch.get_rng_state()
    measure(session, kept, 0)

    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_inside_the_step_is_reported_as_unknown(make_bench: Any) -> None:
    found = levels(
        make_bench,
        model=nn.Linear(5, 3),
        train_loader=loader(torch.randn(64, 5), TARGETS),
        train_step=lambda batch: None,
    )

    assert found.constant is None
    assert "train_step" in found.note


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("loss_fn", [nn.MSELoss(), nn.L1Loss()])
def test_levels_grow_with_the_scale_of_outputs_targets_and_loss(make_bench: Any, scale: float, loss_fn: Any) -> None:
    def in_units(size: float, factor: float) -> list[float]:
        torch.manual_seed(0)
        x, y = torch.randn(16, 3), torch.randn(16, 2) * size
        model = nn.Sequential(nn.Linear(3, 2), Scaled(size))
        found = levels(make_bench, model=model, train_loader=loader(x, y), loss_fn=lambda o, t: factor * loss_fn(o, t))
        unit = factor * (size**2 if isinstance(loss_fn, nn.MSELoss) else size)
        return [value / unit for value in (found.constant, found.zero, found.oracle) if value is not None]

    plain, other = in_units(1.0, 1.0), in_units(scale, 1e-3 / scale)
    assert other[:2] == pytest.approx(plain[:2], rel=1e-2)
    assert plain[2] < 0.05 * plain[0]
    assert other[2] < 0.05 * other[0]


class Scaled(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.size * x
