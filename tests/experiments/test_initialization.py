from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.experiments.initialization import CHECK
from stabcheck.trial.weights import multiply, weights_in_use
from tests.recorded import recorded
from tests.setups import classifier, mlp

Model = Callable[[], nn.Module]


def filled(model: nn.Module, value: float) -> nn.Module:
    for parameter in model.parameters():
        nn.init.constant_(parameter, value if parameter.dim() > 1 else 0.0)
    return model


def normal(model: nn.Module, deviation: float) -> nn.Module:
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=deviation)
    return model


class ByHand(nn.Module):
    """A layer as people write it: rows are inputs."""

    def __init__(self, make: Callable[[int, int], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(make(16, 64)), nn.Parameter(make(64, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.first) @ self.second


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.out = cell(4, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(x.view(-1, 4, 4))[0][:, -1])


class Patches(nn.Module):
    """Convolutions over the features as an image of 4 x 4."""

    def __init__(self, depthwise: float | None = None) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(128, 4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=1 if depthwise is None else 8)
        if depthwise is not None:
            nn.init.constant_(self.depthwise.weight, depthwise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.depthwise(F.relu(self.stem(x.view(-1, 1, 4, 4))))).flatten(1))


def with_zero_head() -> nn.Module:
    model = mlp()
    nn.init.zeros_(model[-1].weight)
    return model


def low_rank() -> nn.Module:
    down, up = nn.Linear(16, 4, bias=False), nn.Linear(4, 32, bias=False)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up, nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


def zero_gate() -> nn.Module:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate, self.out = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 4)
            nn.init.zeros_(self.gate.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.sigmoid(self.gate(x)) * F.relu(self.body(x)))

    return Gated()


def with_dropout() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4)), 0.05)


def normed(model: Model) -> Model:
    return lambda: nn.Sequential(nn.BatchNorm1d(16), model())


EQUAL: dict[str, tuple[Model, str]] = {
    "constant": (lambda: filled(mlp(), 0.05), "0"),
    "zeros under a sigmoid": (lambda: filled(mlp(activation=nn.Sigmoid), 0.0), "0"),
    "by hand": (lambda: ByHand(lambda *size: torch.full(size, 0.05)), "first"),
    "convolutions": (lambda: filled(Patches(), 0.05), "stem"),
    "LSTM": (lambda: filled(Recurrent(nn.LSTM), 0.05), "cell"),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(filled(nn.Linear(16, 32), 0.05)), nn.Tanh(), filled(nn.Linear(32, 4), 0.05)
        ),
        "0",
    ),
}  # fmt: skip
DISTINCT: dict[str, Model] = {
    "random": mlp,
    "zero head": with_zero_head,
    "LoRA": low_rank,
    "zero gate": zero_gate,
    "only the first layer constant": lambda: nn.Sequential(filled(nn.Linear(16, 32), 0.1), nn.ReLU(), nn.Linear(32, 4)),
    "dropout tells them apart": with_dropout,
    "equal filters for different channels": lambda: Patches(depthwise=0.1),
}


@pytest.mark.parametrize("case", EQUAL)
def test_units_that_stay_equal_are_found(case: str, make_bench: Any) -> None:
    model, place = EQUAL[case]
    outcome = CHECK.run(recorded(make_bench, classifier(model)))

    assert [(f.code, f.severity, f.location) for f in outcome.findings] == [("SC1001", "fail", place)]


class Mixture(nn.Module):
    """Five components, whose weights, means and widths have a head each."""

    def __init__(self, *zero: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.Tanh())
        self.logits, self.means, self.widths = nn.Linear(32, 5), nn.Linear(32, 5), nn.Linear(32, 5)
        for name in zero:
            for parameter in getattr(self, name).parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        return torch.stack([self.logits(h).log_softmax(1), self.means(h), self.widths(h)])


def mixture(*zero: str) -> Callable[[], dict[str, Any]]:
    def likelihood(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights, means, widths = outputs
        away = (labels[:, None] - 1.5 - means) / widths.exp()
        return -torch.logsumexp(weights - 0.5 * away.square() - widths, 1).mean()

    return lambda: {**classifier(lambda: Mixture(*zero), lr=5e-3)(), "loss_fn": likelihood}


@pytest.mark.parametrize("seed", range(3))
def test_units_that_only_rounding_tells_apart_are_found(seed: int, make_bench: Any) -> None:
    """Adam blows the rounding of gradients that are zero up to steps of full size."""
    (finding,) = CHECK.run(recorded(make_bench, mixture("logits", "means", "widths"), seed=seed)).findings

    assert (finding.code, finding.location) == ("SC1001", "means")


@pytest.mark.parametrize("zero", [("means", "widths"), ("logits", "widths"), ("logits",)])
def test_heads_that_others_tell_apart_are_left_alone(zero: tuple[str, ...], make_bench: Any) -> None:
    assert CHECK.run(recorded(make_bench, mixture(*zero))).findings == ()


@pytest.mark.parametrize("case", DISTINCT)
def test_units_that_training_tells_apart_are_left_alone(case: str, make_bench: Any) -> None:
    outcome = CHECK.run(recorded(make_bench, classifier(DISTINCT[case])))

    assert outcome.findings == ()
    assert outcome.measurements["weight_scales"]


def test_adams_first_steps_which_have_the_same_size_for_different_gradients_prove_nothing(make_bench: Any) -> None:
    """Two hidden units behind a zero layer, one with three times the gradient of the other."""

    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.units = nn.Linear(16, 8), nn.Linear(8, 2, bias=False)
            self.out = nn.Linear(1, 4)
            nn.init.zeros_(self.units.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out((self.units(F.relu(self.body(x))) * torch.tensor([3.0, 1.0])).sum(1, keepdim=True))

    bench = recorded(make_bench, classifier(Weighed, lr=1e-3))

    assert CHECK.run(bench).findings == ()


def test_equal_units_of_an_outputs_layer_are_left_alone(make_bench: Any) -> None:
    """Three channels that are asked for the same grey get the same gradient, and need no other."""

    def setup() -> dict[str, Any]:
        keys = classifier(with_zero_head)()
        return {**keys, "loss_fn": lambda outputs, labels: (outputs - labels[:, None] / 4).square().mean()}

    assert CHECK.run(recorded(make_bench, setup)).findings == ()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("model", "optimizer", "lr", "code"),
    [
        (lambda: normal(mlp(depth=3, width=64), 1.0), torch.optim.Adam, 1e-3, "SC1002"),
        (lambda: ByHand(lambda *size: 3 * torch.randn(size)), torch.optim.Adam, 1e-3, "SC1002"),
        (lambda: normal(mlp(depth=12, width=64), 2.8 / 8), torch.optim.Adam, 1e-4, "SC1002"),
        (lambda: normal(mlp(depth=4), 1e-3), torch.optim.SGD, 0.1, "SC1003"),
    ],
    ids=["std 1", "by hand", "many a little", "tiny"],
)
def test_weights_of_the_wrong_size_are_found(
    model: Model, optimizer: Any, lr: float, code: str, seed: int, make_bench: Any
) -> None:
    setup = classifier(model, optimizer=optimizer, lr=lr)
    (finding,) = CHECK.run(recorded(make_bench, setup, seed=seed)).findings

    assert (finding.code, finding.severity) == (code, "fail")
    assert finding.evidence["better"] < finding.evidence["constant"] <= 1.1 * finding.evidence["last"]


@pytest.mark.parametrize(
    ("model", "lr"),
    [
        (normed(lambda: normal(mlp(depth=2, width=64), 0.5)), 1e-2),
        (lambda: normal(nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)), 1.0), 1e-2),
        (lambda: normal(mlp(depth=1), 1e-3), 1e-2),
        (mlp, 1e-7),
    ],
    ids=["trains all the same", "normalised after", "Adam grows them", "rate too small"],
)
def test_weights_that_train_or_that_no_other_size_helps_are_left_alone(
    model: Model, lr: float, make_bench: Any
) -> None:
    assert CHECK.run(recorded(make_bench, classifier(model, lr=lr))).findings == ()


def confident(size: float) -> Model:
    """The last layer alone is too large: it comes down by itself, but slowly."""

    def model() -> nn.Module:
        network = mlp()
        with torch.no_grad():
            network[-1].weight.mul_(size)
        return network

    return model


@pytest.mark.parametrize(("size", "lr", "expected"), [(300.0, 5e-4, ["SC1002 warn"]), (3.0, 5e-4, [])])
def test_a_start_far_above_any_guess_that_comes_down_in_the_end_is_a_warning(
    size: float, lr: float, expected: list[str], make_bench: Any
) -> None:
    bench = recorded(make_bench, classifier(confident(size), lr=lr))

    assert [f"{f.code} {f.severity}" for f in CHECK.run(bench).findings] == expected


class Gated(nn.Module):
    """Two layers, the second behind a gate."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.body, self.gate, self.out = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 4, bias=False)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.sigmoid(self.gate(x)) * torch.tanh(self.body(x)))


def with_gate_bias(cell: type[nn.RNNBase], gate: int, value: float) -> nn.Module:
    model = Recurrent(cell)
    with torch.no_grad():
        model.cell.bias_ih_l0[16 * gate : 16 * (gate + 1)] = value
    return model


def with_bias(model: nn.Module, value: float) -> nn.Module:
    nn.init.constant_(model[0].bias, value)
    return model


def shifted(size: float, target: float) -> Callable[[], dict[str, Any]]:
    """A regression on targets around `target`, whose output begins at `size`."""

    def setup() -> dict[str, Any]:
        keys = classifier(mlp)()
        nn.init.constant_(keys["model"][-1].bias, size)
        return {**keys, "loss_fn": lambda outputs, labels: F.smooth_l1_loss(outputs[:, 0], labels.float() + target)}

    return setup


FAR: dict[str, tuple[Any, str, str]] = {
    "closed gate": (classifier(lambda: Gated(-25.0)), "gate.bias", ""),
    "GRU that keeps": (classifier(lambda: with_gate_bias(nn.GRU, 1, 25.0)), "cell.bias_ih_l0", "update gate"),
    "LSTM without input": (classifier(lambda: with_gate_bias(nn.LSTM, 0, -25.0)), "cell.bias_ih_l0", "input gate"),
    "tanh at its stop": (classifier(lambda: with_bias(mlp(activation=nn.Tanh), 20.0)), "0.bias", "layer 0"),
    "output far off": (shifted(500.0, 0.0), "4.bias", "layer 4"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", FAR)
def test_biases_that_hide_their_inputs_are_found(case: str, seed: int, make_bench: Any) -> None:
    setup, place, words = FAR[case]
    (finding,) = CHECK.run(recorded(make_bench, setup, seed=seed)).findings

    assert (finding.code, finding.severity, finding.location) == ("SC1004", "fail", place)
    assert words in finding.message
    assert finding.evidence["better"] < finding.evidence["last"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "setup",
    [
        classifier(lambda: Gated(-4.0)),
        classifier(lambda: with_gate_bias(nn.LSTM, 1, 6.0)),
        classifier(lambda: Gated(-25.0), lr=1e-7),
        shifted(501.5, 500.0),
    ],
    ids=["gate that opens", "forget gate of a long memory", "rate too small", "prior of the targets"],
)
def test_biases_that_train_or_that_zero_does_not_mend_are_left_alone(setup: Any, seed: int, make_bench: Any) -> None:
    assert CHECK.run(recorded(make_bench, setup, seed=seed)).findings == ()


def test_size_is_not_judged_without_a_level_of_the_loss(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        keys = classifier(lambda: normal(mlp(), 1.0))()
        model, optimizer, loss_fn = keys["model"], keys["optimizer"], keys.pop("loss_fn")

        def train_step(batch: Any) -> torch.Tensor:
            loss = loss_fn(model(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return {**keys, "train_step": train_step}

    outcome = CHECK.run(recorded(make_bench, setup))

    assert outcome.measurements["weight_scales"]
    assert "SC1001" not in [f.code for f in outcome.findings]


def test_scale_is_the_deviation_times_the_root_of_the_inputs(make_bench: Any) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 8, 3), nn.utils.parametrizations.weight_norm(nn.Linear(32, 16))
            self.up, self.own = nn.ConvTranspose1d(4, 2, 3), nn.Parameter(torch.randn(12, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.linear(self.conv(x.view(-1, 1, 4, 4)).flatten(1))
            return self.up(h.view(-1, 4, 4)).flatten(1) @ self.own

    bench = make_bench(classifier(Mixed))
    found = {w.name: w for w in weights_in_use(bench)}

    model = bench.shared().model
    assert list(found) == ["conv", "linear", "up", "own"]
    for name, weight, inputs in (
        ("conv", model.conv.weight, 9), ("linear", model.linear.weight, 32), ("up", model.up.weight, 12), ("own", model.own, 12),
    ):  # fmt: skip
        assert found[name].scale == pytest.approx(float(weight.square().mean()) ** 0.5 * inputs**0.5, rel=1e-4)

    before = {name: getattr(model.get_submodule(w.module), w.key).detach().clone() for name, w in found.items()}
    for name, weight in found.items():
        assert multiply(model, weight, 0.5)
        now = getattr(model.get_submodule(weight.module), weight.key)
        torch.testing.assert_close(now, 0.5 * before[name])


@pytest.mark.parametrize(
    "use",
    [
        lambda w, m, x: (w * m) @ x.T,
        lambda w, m, x: x @ (m * w).T,
        lambda w, m, x: F.linear(x, w.masked_fill(m == 0, 0.0)),
        lambda w, m, x: x @ torch.tril(w).t(),
    ],
)
def test_a_weight_under_a_mask_is_the_weight(use: Any, make_bench: Any) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.out = nn.Parameter(torch.randn(16, 16)), nn.Linear(16, 4)
            self.register_buffer("mask", torch.ones(16, 16).tril())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h: torch.Tensor = use(self.own, self.mask, x)
            return self.out(h if h.shape == x.shape else h.T)

    bench = make_bench(classifier(Masked))
    own, out = weights_in_use(bench)

    assert (own.name, out.name) == ("own", "out")
    torch.testing.assert_close(own.rows[0], bench.shared().model.own.detach().tril())


def test_looking_leaves_the_set_up_as_it_was(make_bench: Any) -> None:
    bench = make_bench(
        classifier(lambda: nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4)))
    )
    model = bench.shared().model
    before = {key: value.clone() for key, value in model.state_dict().items()}

    weights_in_use(bench)

    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
