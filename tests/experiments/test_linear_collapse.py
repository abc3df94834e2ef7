from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

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


EDGES = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])


def messages(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the neighbours send, along edges, over the rows of a batch of rows of four nodes."""
    sent = layer(x)
    edges = EDGES[None] + 4 * torch.arange(len(x) // 4)[:, None, None]
    source, target = edges.unbind(1)
    return torch.zeros_like(sent).index_add(0, target.flatten(), sent[source.flatten()])


def neighbours(activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        near = (torch.cdist(x, x) < 8).float()
        h = activation(m.a(x) + near @ m.a(x) / near.sum(1, keepdim=True))
        return m.c(activation(m.b(h) + near @ m.b(h)))

    return forward


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
    "over the neighbours in a graph": (lambda: Layers(neighbours(lambda h: h)), "SC2301", "fail", "a"),
    "along the edges of a graph": (
        lambda: Layers(lambda m, x: m.c(messages(m.b, messages(m.a, x)))), "SC2301", "fail", "a",
    ),
    "two in a row": (lambda: Layers(lambda m, x: m.c(m.b(F.relu(m.a(x))))), "SC2303", "warn", "b"),
    "convolutions": (
        convolutions(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3)),
        "SC2303", "warn", "3",
    ),
    "leaky by one": (lambda: mlp(activation=lambda: nn.LeakyReLU(1.0, inplace=True)), "SC2305", "fail", "0"),
    "limits out of reach": (lambda: mlp(activation=lambda: nn.Hardtanh(-1e4, 1e4)), "SC2305", "fail", "0"),
    "a threshold out of reach": (lambda: mlp(activation=lambda: nn.Threshold(-1e4, 0.0)), "SC2305", "fail", "0"),
    "clamped out of reach": (lambda: Layers(lambda m, x: m.c(m.b(m.a(x).clamp(-1e4, 1e4)))), "SC2301", "fail", "a"),
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
    "neighbours, with activations": lambda: Layers(neighbours(F.relu)),
    "scaled by each feature": lambda: Layers(lambda m, x: m.c(F.relu(m.b(m.a(x) * x.repeat(1, 2))))),
    "chosen by itself": lambda: Layers(lambda m, x: m.c((h := m.a(x))[h.norm(dim=1).argsort()])),
    "a recurrence": lambda: Layers(recurrence),
    "in place": lambda: Layers(in_place),
    "indexed and masked": lambda: Layers(indexed),
    "an autograd function": lambda: Layers(lambda m, x: m.c(OwnRelu.apply(m.b(OwnRelu.apply(m.a(x)))))),
    "a square": lambda: Layers(lambda m, x: m.c((h := m.b(m.a(x) ** 2)) * h)),
    "frozen": lambda: Layers(lambda m, x: m.c(m.b(F.relu(m.a(x)))) if m.b.requires_grad_(False) else x),
    "LayerNorm": lambda: Layers(lambda m, x: m.c(m.norm(m.b(F.relu(m.a(x))))), norm=nn.LayerNorm(32)),
    "a slope to be learnt": lambda: mlp(activation=lambda: nn.PReLU(init=1.0)),
    "a slope at random": lambda: mlp(activation=nn.RReLU),
    "limits within reach": lambda: mlp(activation=lambda: nn.Hardtanh(-6, 6)),
    "inputs too small to bend": lambda: Layers(lambda m, x: m.c(F.elu(m.b((1e-6 * m.a(x)).tanh())))),
    "cut off between": lambda: Layers(lambda m, x: m.c(F.relu(m.b(m.a(x).detach())))),
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


def equation(net: nn.Module, of: Callable[[nn.Module, torch.Tensor], torch.Tensor], **keys: Any) -> Callable[[], Any]:
    """u'' = -sin, for u = `of`(net, x)."""

    def residual(model: nn.Module, batch: Any) -> torch.Tensor:
        x = batch[0].clone().requires_grad_()
        slope = torch.autograd.grad(of(model, x).sum(), x, create_graph=True)[0]
        curvature = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
        return (curvature + x.sin()).square().mean() + of(model, x).square().mean()

    def setup() -> dict[str, Any]:
        loader = DataLoader(TensorDataset(torch.linspace(0.1, 3, 64)[:, None]), batch_size=32)
        optimizer = torch.optim.Adam(net.parameters())
        return {"model": net, "train_loader": loader, "compute_loss": residual, "optimizer": optimizer, **keys}

    return setup


def network(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 1))


def bare(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    value: torch.Tensor = net(x)
    return value


def pinned(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Zero at zero by construction, which gives the whole a second derivative that is not zero."""
    return x * bare(net, x)


@pytest.mark.parametrize("of", [bare, pinned])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Hardtanh()])
def test_a_second_derivative_that_is_zero_everywhere_is_found(activation: Any, of: Any, make_bench: Any) -> None:
    (finding,) = CHECK.run(make_bench(equation(network(activation), of))).findings

    assert (finding.code, finding.evidence["points"]) == ("SC2304", 32)
    assert finding.evidence["activation"] in {"relu", "leaky_relu", "hardtanh"}


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.SiLU(), nn.ELU(), nn.Softplus()])
def test_smooth_networks_have_a_second_derivative(activation: Any, make_bench: Any) -> None:
    assert CHECK.run(make_bench(equation(network(activation), pinned))).findings == ()


def test_a_network_that_starts_at_zero_is_not_called_straight(make_bench: Any) -> None:
    net = network(nn.Tanh())
    nn.init.zeros_(net[-1].weight)

    assert CHECK.run(make_bench(equation(net, bare))).findings == ()


@pytest.mark.parametrize("of", [lambda net, x: net(x).exp(), lambda net, x: net(x.sin())])
def test_what_is_curved_before_or_behind_a_straight_network_is_left_alone(of: Any, make_bench: Any) -> None:
    assert CHECK.run(make_bench(equation(network(nn.ReLU()), of))).findings == ()


def test_first_derivatives_of_a_straight_network_are_left_alone(make_bench: Any) -> None:
    def penalty(model: nn.Module, batch: Any) -> torch.Tensor:
        x = batch[0].clone().requires_grad_()
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        return (slope.norm(dim=1) - 1).square().mean()

    assert CHECK.run(make_bench(equation(network(nn.ReLU()), bare, compute_loss=penalty))).findings == ()
