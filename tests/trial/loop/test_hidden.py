"""Weights that the model does not list: faulty and healthy ways of keeping them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.check import Finding
from stabcheck.experiments.training_loop import CHECK
from stabcheck.trial.bench import Bench
from tests.setups import classifier, mlp

MakeBench = Callable[..., Bench]


class Keeping(nn.Module):
    """Some layers that it lists, and whatever `keep` makes and `use` runs."""

    def __init__(self, keep: Callable[[], Any], use: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        self.extra = keep()
        self.use = use

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.use(self.extra, torch.relu(self.first(inputs))))


def findings(bench: Bench) -> list[Finding]:
    return [finding for finding in CHECK.run(bench).findings if finding.code == "SC1515"]


def run(keep: Callable[[], Any], use: Callable[[Any, torch.Tensor], torch.Tensor], **keys: Any) -> Callable[[], Any]:
    return classifier(lambda: Keeping(keep, use), **keys)


def linear() -> nn.Module:
    return nn.Linear(16, 16)


def in_turn(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        hidden = torch.tanh(layer(hidden))
    return hidden


class Holder:
    def __init__(self) -> None:
        self.inner = {"layer": [linear()]}


FAULTY: dict[str, tuple[Callable[[], Any], Callable[[Any, torch.Tensor], torch.Tensor], int]] = {
    "list": (lambda: [linear() for _ in range(3)], in_turn, 6),
    "tuple of blocks": (lambda: (nn.Sequential(linear(), nn.BatchNorm1d(16)),), in_turn, 4),
    "dict": (lambda: {"a": linear()}, lambda kept, x: kept["a"](x), 2),
    "nested": (lambda: [[linear()], [linear()]], lambda kept, x: kept[1][0](kept[0][0](x)), 4),
    "object": (Holder, lambda kept, x: kept.inner["layer"][0](x), 2),
    "partial": (lambda: functools.partial(F.linear, weight=nn.Parameter(torch.randn(16, 16))), lambda kept, x: kept(x), 1),
    "closure": (lambda: (lambda layer: lambda x: layer(x))(linear()), lambda kept, x: kept(x), 2),
    "tensor": (lambda: torch.ones(16).requires_grad_(), lambda kept, x: kept * x, 1),
    "embedding": (lambda: [nn.Embedding(9, 16)], lambda kept, x: x + kept[0](torch.zeros(len(x)).long()), 1),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FAULTY)
def test_hidden_weights_are_counted(name: str, seed: int, make_bench: MakeBench) -> None:
    keep, use, count = FAULTY[name]

    (finding,) = findings(make_bench(run(keep, use), seed=seed))

    assert (finding.severity, finding.evidence["count"], finding.evidence["at"]) == ("fail", count, "extra")


def test_own_steps_are_looked_at_too(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = run(lambda: [linear()], in_turn)()
        model, optimizer = parts["model"], parts["optimizer"]

        def step(batch: Any) -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            return loss.item()

        return {**parts, "train_step": step}

    assert [finding.severity for finding in findings(make_bench(setup))] == ["fail"]


def trained() -> nn.Module:
    """As from a file: with outliers, unlike any fresh draw."""
    layer = linear()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.distributions.StudentT(1.5).sample(parameter.shape) * 0.03)
    return layer


def frozen() -> nn.Module:
    return linear().requires_grad_(False)


def without_gradient(kept: Any, hidden: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        offset = kept[0](hidden)
    return hidden + offset


HEALTHY: dict[str, tuple[Callable[[], Any], Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "frozen features": (lambda: [frozen()], in_turn),
    "pretrained and kept out of the checkpoint": (lambda: [trained(), trained()], in_turn),
    "teacher": (lambda: [linear()], without_gradient),
    "never used": (lambda: [linear()], lambda kept, x: x),
    "registered as well": (lambda: nn.ModuleList([linear()]), in_turn),
    "constants": (lambda: [torch.ones(16), 3.0, "text"], lambda kept, x: kept[0] * x),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_hidden_on_purpose(name: str, make_bench: MakeBench) -> None:
    assert findings(make_bench(run(*HEALTHY[name]))) == []


def test_hidden_layers_that_the_optimizer_holds(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = run(lambda: [linear()], in_turn)()
        model = parts["model"]
        return {**parts, "optimizer": torch.optim.SGD([*model.parameters(), *model.extra[0].parameters()], lr=0.1)}

    assert findings(make_bench(setup)) == []


def test_an_optimizer_of_its_own_or_none_but_the_hand(make_bench: MakeBench) -> None:
    def setup(by_hand: bool) -> dict[str, Any]:
        parts = run(lambda: [linear()], in_turn)()
        model, optimizer = parts["model"], parts["optimizer"]
        extra = list(model.extra[0].parameters())
        rare, count = torch.optim.SGD(extra, lr=0.1), [0]

        def step(batch: Any) -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            count[0] += 1
            if by_hand:
                with torch.no_grad():
                    for parameter in extra:
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
            elif count[0] % 100 == 0:
                rare.step()
            return loss.item()

        return {**parts, "train_step": step}

    for by_hand in (True, False):
        assert findings(make_bench(lambda by_hand=by_hand: setup(by_hand))) == []


def penalised(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs = batch[0].clone().requires_grad_()
    loss = F.cross_entropy(model(inputs), batch[1])
    (slope,) = torch.autograd.grad(loss, inputs, create_graph=True)
    return loss + slope.square().sum()


def test_inputs_that_require_grad(make_bench: MakeBench) -> None:
    points = torch.randn(32, 16).requires_grad_()

    def physics(model: nn.Module, batch: Any) -> torch.Tensor:
        (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        return slope.square().mean() + model(points).square().mean()

    for loss in (penalised, physics):
        assert findings(make_bench(classifier(compute_loss=loss, loss_fn=None))) == []


def beside(freshly: Callable[[], nn.Module], optimized: bool) -> Callable[[], Any]:
    """A head that the step calls, and that is no part of the model."""

    def setup() -> dict[str, Any]:
        parts = classifier(lambda: mlp(depth=2))()
        model, head = parts["model"], nn.Sequential(nn.Linear(4, 4), freshly(), nn.Linear(16, 4))
        optimizer = torch.optim.Adam([*model.parameters(), *(head.parameters() if optimized else ())], lr=1e-3)

        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            return F.cross_entropy(head(model(batch[0])), batch[1])

        return {**parts, "compute_loss": loss, "loss_fn": None, "optimizer": optimizer}

    return setup


def test_a_head_beside_the_model(make_bench: MakeBench) -> None:
    (finding,) = findings(make_bench(beside(lambda: nn.Linear(4, 16), False)))

    assert (finding.severity, finding.evidence["count"]) == ("warn", 6)
    assert findings(make_bench(beside(lambda: nn.Linear(4, 16), True))) == []


def test_targets_of_a_random_network(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier(lambda: mlp(depth=2))()
        target = copy.deepcopy(parts["model"])
        target.apply(lambda module: module.reset_parameters() if isinstance(module, nn.Linear) else None)

        def loss(model: nn.Module, batch: Any) -> torch.Tensor:
            return F.mse_loss(model(batch[0]), target(batch[0]))

        return {**parts, "compute_loss": loss, "loss_fn": None}

    assert findings(make_bench(setup)) == []
