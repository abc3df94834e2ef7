from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.check import Skip
from stabcheck.experiments.linear_collapse import CHECK
from tests.setups import classifier, mlp

Model = Callable[[], nn.Module]


class Layers(nn.Module):
    """Three layers, and a forward given by a test."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        for name, module in modules.items():
            self.add_module(name, module)
        self.body = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


class OwnRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (ctx.saved_tensors[0] > 0)


def discarding(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    F.relu(h)
    return m.c(F.relu(m.b(h)))


def in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    F.relu(h, inplace=True)
    h = m.b(h)
    h.view(-1).relu_()
    return m.c(h)


def indexed(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    h[h < 0] = 0
    h = m.b(h)
    return m.c(h * (h > 0))


def linear_attention(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = F.relu(m.a(x))[:, None]
    return m.c(m.q(h) @ (m.k(h).transpose(1, 2) @ m.b(h))).squeeze(1)


def recurrence(m: Any, x: torch.Tensor) -> torch.Tensor:
    state = F.relu(m.a(x))
    for _ in range(3):
        state = m.b(state)
    return m.c(state)


def convolutions(*layers: nn.Module) -> Model:
    return lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), *layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, 4)
    )


COLLAPSED: dict[str, tuple[Model, str, str, str]] = {
    "no activation at all": (lambda: mlp(activation=nn.Identity), "SC2301", "fail", "0"),
    "BatchNorm and dropout between": (
        lambda: nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.Linear(32, 4)),
        "SC2301", "fail", "0",
    ),
    "parameters by hand": (
        lambda: Layers(lambda m, x: (x @ m.a.weight.T + m.a.bias) @ m.b.weight @ m.c.weight.T), "SC2301", "fail", "a",
    ),
    "never called": (
        lambda: Layers(lambda m, x: m.c(m.b(m.act1(m.a(x)))), act1=nn.ReLU(), act2=nn.ReLU()), "SC2302", "fail", "b",
    ),
    "result thrown away": (lambda: Layers(discarding), "SC2302", "fail", "a"),
    "widened and narrowed": (
        lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)),
        "SC2303", "fail", "2",
    ),
    "three in a row": (
        lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 8), nn.Linear(8, 4)),
        "SC2303", "fail", "2",
    ),
    "two in a row": (lambda: Layers(lambda m, x: m.c(m.b(F.relu(m.a(x))))), "SC2303", "warn", "b"),
    "convolutions": (
        convolutions(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3)),
        "SC2303", "warn", "3",
    ),
}  # fmt: skip
SOUND: dict[str, Model] = {
    "activations": mlp,
    "low rank": lambda: nn.Sequential(nn.Linear(16, 4), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4)),
    "depthwise and pointwise": convolutions(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 2, groups=8), nn.Conv2d(8, 16, 1)
    ),
    "one-sided convolutions": convolutions(nn.Conv2d(1, 16, (1, 3)), nn.Conv2d(16, 16, (3, 1))),
    "residual sums": lambda: Layers(lambda m, x: m.c((h := m.a(x)) + m.b(F.relu(h)))),
    "read elsewhere too": lambda: Layers(lambda m, x: m.c(h := m.b(F.relu(m.a(x)))) + h.tanh().mean(1, keepdim=True)),
    "linear attention": lambda: Layers(linear_attention, q=nn.Linear(32, 32), k=nn.Linear(32, 32)),
    "a recurrence": lambda: Layers(recurrence),
    "in place": lambda: Layers(in_place),
    "indexed and masked": lambda: Layers(indexed),
    "an autograd function": lambda: Layers(lambda m, x: m.c(OwnRelu.apply(m.b(OwnRelu.apply(m.a(x)))))),
    "a square": lambda: Layers(lambda m, x: m.c((h := m.b(m.a(x) ** 2)) * h)),
    "frozen": lambda: Layers(lambda m, x: m.c(m.b(F.relu(m.a(x)))) if m.b.requires_grad_(False) else x),
    "LayerNorm": lambda: Layers(lambda m, x: m.c(m.norm(m.b(F.relu(m.a(x))))), norm=nn.LayerNorm(32)),
    "different modules": lambda: nn.Sequential(Layers(lambda m, x: m.b(F.relu(m.a(x)))), nn.Linear(32, 4)),
}


@pytest.mark.parametrize("case", COLLAPSED)
def test_layers_that_are_one_map_are_found(case: str, make_bench: Any) -> None:
    model, code, severity, place = COLLAPSED[case]
    findings = CHECK.run(make_bench(classifier(model))).findings

    assert [(f.code, f.severity, f.location) for f in findings] == [(code, severity, place)]


@pytest.mark.parametrize("case", SOUND)
def test_layers_with_something_between_or_a_purpose_are_left_alone(case: str, make_bench: Any) -> None:
    assert CHECK.run(make_bench(classifier(SOUND[case]))).findings == ()


def test_a_single_layer_is_not_judged(make_bench: Any) -> None:
    with pytest.raises(Skip, match="fewer than two"):
        CHECK.run(make_bench(classifier(lambda: nn.Linear(16, 4))))


def test_the_users_own_step_is_followed_where_the_loss_is_known_only_there(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        keys = classifier(lambda: mlp(activation=nn.Identity))()
        loss_fn = keys.pop("loss_fn")

        def train_step(batch: Any) -> torch.Tensor:
            loss = loss_fn(keys["model"](batch[0]), batch[1])
            loss.backward()
            return loss

        return {**keys, "train_step": train_step}

    # The proof needs a loss that can be computed again.
    assert CHECK.run(make_bench(setup)).findings == ()


def test_only_the_collapsed_block_of_several_alike_is_named_with_the_number_of_the_others(make_bench: Any) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(self.up(self.norm(x)))

    (finding,) = CHECK.run(make_bench(classifier(lambda: nn.Sequential(Block(), Block(), nn.Linear(16, 4))))).findings

    assert (finding.code, finding.location) == ("SC2303", "0.up")
    assert finding.evidence["layers"] == [["0.up", "0.down"], ["1.up", "1.down"]]
