from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stabcheck.experiments.lr_schedule import CHECK
from stabcheck.trial.bench import Bench

MakeBench = Callable[..., Bench]
BATCHES, EPOCHS = 10, 30


def setup(patience: int, mode: Any = "min", *, every: int = 1, sign: float = 1.0, own: bool = True) -> Any:
    """A regression that takes long, with a scheduler that waits for the mean of `sign` times the losses of `every` batches."""

    def function() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3)
        inputs = torch.randn(BATCHES * 16, 6, generator=generator)
        targets = torch.sin(2 * inputs[:, :1]) + inputs[:, 1:2] * inputs[:, 2:3]
        model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        scheduler = ReduceLROnPlateau(optimizer, mode, factor=0.2, patience=patience)
        losses: list[float] = []

        def train_step(batch: Any) -> float:
            loss = nn.functional.mse_loss(model(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % every == 0:
                scheduler.step(sign * statistics.mean(losses[-every:]))
            return losses[-1]

        step = {"train_step": train_step} if own else {}
        return {
            "model": model, "loss_fn": nn.functional.mse_loss, "optimizer": optimizer, "scheduler": scheduler,
            "train_loader": list(zip(inputs.split(16), targets.split(16), strict=True)), "max_epochs": EPOCHS,
            "scheduler_interval": "step" if every == 1 else "epoch", **step,
        }  # fmt: skip

    return function


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("function", "how"),
    [
        (setup(1), "at every batch with patience=1"),
        (setup(1, own=False), "at every batch with patience=1"),
        (setup(0, "max", every=BATCHES), "fell"),
        (setup(0, "min", every=BATCHES, sign=-1.0), "rose"),
    ],
)
def test_a_rate_that_is_cut_while_the_loss_falls(function: Any, how: str, seed: int, make_bench: MakeBench) -> None:
    (found,) = CHECK.run(make_bench(function, seed=seed)).findings

    assert (found.code, found.severity) == ("SC0521", "fail")
    assert how in found.evidence["how"]
    assert found.evidence["low"] <= 0.01 * found.evidence["rate"]


def test_the_loss_without_the_cuts(make_bench: MakeBench) -> None:
    bench = make_bench(setup(1), seed=0)
    (found,) = CHECK.run(bench).findings

    plain = bench.session().setup
    plain.scheduler.step = lambda metric: None
    losses = [plain.train_step(batch) for _ in range(EPOCHS) for batch in plain.train_loader][: found.evidence["steps"]]

    assert found.evidence["held"] == pytest.approx(statistics.mean(losses[-max(10, len(losses) // 10) :]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "function",
    [
        setup(1, every=BATCHES),
        setup(1, "max", every=BATCHES, sign=-1.0),
        setup(10 * BATCHES),
        setup(0, "max", every=EPOCHS * BATCHES),
    ],
)
def test_patience_of_whole_epochs_is_silent(function: Any, seed: int, make_bench: MakeBench) -> None:
    assert not [f for f in CHECK.run(make_bench(function, seed=seed)).findings if f.code in {"SC0515", "SC0521"}]
