"""Steps that pair inputs with other samples' targets, and healthy ones that come near."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.experiments.one_batch_overfit import CHECK
from stabcheck.trial.bench import Bench
from stabcheck.trial.overfit.mixed import rows
from tests.setups import classifier, mlp

MakeBench = Callable[..., Bench]
Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def stepping(loss_of: Loss, model: Callable[[], nn.Module] = mlp, **keys: Any) -> Callable[[], dict[str, Any]]:
    def setup() -> dict[str, Any]:
        parts = classifier(model, **keys)()
        network, optimizer = parts["model"], parts["optimizer"]

        def step(batch: Any) -> float:
            optimizer.zero_grad()
            loss = loss_of(network, *batch)
            loss.backward()
            optimizer.step()
            return loss.item()

        return {**parts, "train_step": step}

    return setup


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))


def mixup(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    share, other = float(torch.rand(())), torch.randperm(len(x))
    outputs = model(share * x + (1 - share) * x[other])
    return share * F.cross_entropy(outputs, y) + (1 - share) * F.cross_entropy(outputs, y[other])


def permuted(x: torch.Tensor) -> torch.Tensor:
    return x[torch.randperm(len(x))]


FAULTY: dict[str, Callable[[], dict[str, Any]]] = {
    "inputs drawn anew": stepping(lambda m, x, y: F.cross_entropy(m(permuted(x)), y)),
    "targets drawn anew": stepping(lambda m, x, y: F.cross_entropy(m(x), permuted(y))),
    "flipped": stepping(lambda m, x, y: F.cross_entropy(m(x), y.flip(0))),
    "rolled": stepping(lambda m, x, y: F.cross_entropy(m(x.roll(1, 0)), y)),
    "sorted": stepping(lambda m, x, y: F.cross_entropy(m(x[x[:, 0].argsort()]), y)),
    "with batch norm": stepping(lambda m, x, y: F.cross_entropy(m(permuted(x)), y), normed),
    "by SGD": stepping(lambda m, x, y: F.cross_entropy(m(permuted(x)), y), optimizer=torch.optim.SGD, lr=0.3),
}
"""By blobs of four classes."""


@pytest.mark.parametrize(("seed", "name"), enumerate(FAULTY))
def test_samples_that_are_paired_wrongly(name: str, seed: int, make_bench: MakeBench) -> None:
    (finding,) = CHECK.run(make_bench(FAULTY[name], seed=seed)).findings

    assert (finding.code, finding.severity) == ("SC0112", "fail")
    assert finding.evidence["ours"] > finding.evidence["own"]
    assert finding.evidence["apart"] >= 0.75 > 0.3 >= finding.evidence["together"]


def both_permuted(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    index = torch.randperm(len(x))
    return F.cross_entropy(model(x[index]), y[index])


def other_task(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(model(x), x[:, :4])


HEALTHY: dict[str, Callable[[], dict[str, Any]]] = {
    "one index": stepping(both_permuted),
    "mixup": stepping(mixup),
    "mixup with batch norm": stepping(mixup, normed),
    "much noise": stepping(lambda m, x, y: F.cross_entropy(m(x + 4 * torch.randn_like(x)), y)),
    "half the inputs dropped": stepping(lambda m, x, y: F.cross_entropy(m(x * (torch.rand_like(x) > 0.6)), y)),
    "features shuffled at random": stepping(lambda m, x, y: F.cross_entropy(m(x[:, torch.randperm(16)]), y)),
    "scaled in the step only": stepping(lambda m, x, y: F.cross_entropy(m((5 - x) / 10), y)),
    "another task": stepping(other_task),
    "labels shifted": stepping(lambda m, x, y: F.cross_entropy(m(x), (y + 1) % 4)),
    "smoothed": stepping(lambda m, x, y: F.cross_entropy(m(x), y, label_smoothing=0.6)),
}


@pytest.mark.parametrize(("seed", "name"), enumerate(HEALTHY))
def test_steps_that_pair_as_they_should(name: str, seed: int, make_bench: MakeBench) -> None:
    findings = CHECK.run(make_bench(HEALTHY[name], seed=seed)).findings

    assert "SC0112" not in [finding.code for finding in findings]


def test_rows_of_every_form() -> None:
    batch = {"x": torch.arange(6).reshape(3, 2), "names": ["a", "b", "c"], "scale": torch.tensor(2.0), "n": 7}

    chosen = rows(batch, [2, 2, 0])

    assert chosen["x"].tolist() == [[4, 5], [4, 5], [0, 1]]
    assert (chosen["names"], float(chosen["scale"]), chosen["n"]) == (["c", "c", "a"], 2.0, 7)
    assert [t.tolist() for t in rows((torch.tensor([1, 2]), torch.tensor([3, 4])), [1, 1])] == [[2, 2], [4, 4]]
