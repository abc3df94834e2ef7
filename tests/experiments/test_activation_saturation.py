from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Skip
from stabcheck.experiments.activation_saturation import CHECK
from stabcheck.setup import TrainingSetup
from stabcheck.trial.call_watch import watch_loss
from stabcheck.trial.saturation.gauge import GaugeWatch, Softened, multi_head_logits
from stabcheck.trial.session import Session
from tests.recorded import recorded
from tests.setups import classifier, mlp

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Attention(nn.Module):
    """Two heads over four positions."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.inputs, self.norm, self.out = nn.Linear(4, 16), nn.LayerNorm(16), nn.Linear(16, 4)
        self.qkv, self.attend = nn.Linear(16, 48), attend

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inputs(x.view(-1, 4, 4))
        q, k, v = self.qkv(self.norm(h)).view(-1, 4, 3, 2, 8).permute(2, 0, 3, 1, 4)
        return self.out((h + self.attend(q, k, v).transpose(1, 2).reshape(h.shape)).mean(1))


def softmax_over(dim: int) -> Attend:
    return lambda q, k, v: F.dropout((q @ k.mT / math.sqrt(8)).softmax(dim), 0.1) @ v


def masked(mask: torch.Tensor, value: float) -> Attend:
    return lambda q, k, v: (q @ k.mT).masked_fill(mask, value).softmax(-1) @ v


def slots(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weights = (q @ k.mT).softmax(-2)
    return weights / weights.sum(-1, keepdim=True) @ v


def linear(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return q.softmax(-1) @ (k.softmax(-2).mT @ v)


EVERY, LATER = torch.ones(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool).triu(1)
WRONG: dict[str, tuple[Attend, str, str]] = {
    "over the batch": (softmax_over(0), "SC1102", "fail"),
    "over the heads": (softmax_over(1), "SC1102", "fail"),
    "over the queries": (softmax_over(2), "SC1102", "warn"),
    "everything masked": (masked(EVERY, -1e9), "SC1103", "fail"),
    "everything masked for the fused one": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=~EVERY), "SC1103", "fail",
    ),
}  # fmt: skip
RIGHT: dict[str, Attend] = {
    "over the keys": softmax_over(3),
    "causal": masked(LATER, -math.inf),
    "fused and causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "slots": slots,
    "linear": linear,
    "sharp": lambda q, k, v: (100 * q @ k.mT).softmax(-1) @ v,
    "pooled over clusters": lambda q, k, v: q.softmax(-1).mT.mT @ v.mT.softmax(-1) @ v,
}


@pytest.mark.parametrize("case", WRONG)
def test_attention_over_the_wrong_things_is_found(case: str, make_bench: Any) -> None:
    attend, code, severity = WRONG[case]
    findings = CHECK.run(recorded(make_bench, classifier(lambda: Attention(attend)))).findings

    assert [(f.code, f.severity) for f in findings] == [(code, severity)]


@pytest.mark.parametrize("case", RIGHT)
def test_attention_of_other_designs_is_left_alone(case: str, make_bench: Any) -> None:
    outcome = CHECK.run(recorded(make_bench, classifier(lambda: Attention(RIGHT[case]))))

    assert outcome.findings == ()
    assert outcome.measurements["functions"]


class Scaled(nn.Module):
    """Inputs that come in other units."""

    def __init__(self, factor: float, model: nn.Module) -> None:
        super().__init__()
        self.factor, self.model = factor, model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(self.factor * x)


def curves(factor: float, bias: float = 0.0) -> Any:
    """A curve of 16 numbers on a line of its own; what bends them reads the positions, `factor` times too large."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.straight = nn.Linear(16, 1)
            self.bent = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))
            nn.init.constant_(self.bent[0].bias, bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.straight(x) + self.bent(factor * x[:, :1])

    def setup() -> dict[str, Any]:
        torch.manual_seed(0)
        x = torch.randn(600, 16)
        x[:, 0] = torch.rand(600)
        y = x[:, 1:2] + torch.sin(9 * x[:, :1])
        model = Net()
        loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        return {"model": model, "train_loader": loader, "loss_fn": F.mse_loss, "optimizer": optimizer}

    return setup


@pytest.mark.parametrize("seed", range(3))
def test_what_is_learnt_around_units_that_are_switches_is_told_from_what_they_do_not_hold_back(
    seed: int, make_bench: Any
) -> None:
    (finding,) = CHECK.run(recorded(make_bench, curves(1000.0), seed=seed)).findings

    assert (finding.code, finding.location) == ("SC1104", "bent.1")
    assert finding.evidence["better"] < finding.evidence["last"] / 2
    for factor, bias in ((1.0, 0.0), (1.0, -9.0)):  # healthy; shut at one stop
        assert CHECK.run(recorded(make_bench, curves(factor, bias), seed=seed)).findings == ()


@pytest.mark.parametrize("seed", range(3))
def test_saturation_that_holds_the_training_is_found(seed: int, make_bench: Any) -> None:
    """Three layers of steep sigmoids: nothing comes through to the first, and the last sees steps."""

    class Steep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(1e4 * x) - 0.5

    model = lambda: nn.Sequential(mlp(), Steep())  # noqa: E731
    bench = recorded(make_bench, classifier(model, optimizer=torch.optim.SGD, lr=0.5), seed=seed)
    (finding,) = CHECK.run(bench).findings

    assert (finding.code, finding.severity, finding.location) == ("SC1101", "fail", "1")
    assert finding.evidence["better"] < finding.evidence["constant"] < finding.evidence["last"] + 0.1


@pytest.mark.parametrize(
    "model",
    [lambda: mlp(activation=nn.Tanh), lambda: Scaled(300.0, mlp(activation=nn.Tanh, depth=1))],
    ids=["tanh", "saturated but learning"],
)
def test_saturation_that_does_no_harm_is_left_alone(model: Any, make_bench: Any) -> None:
    outcome = CHECK.run(recorded(make_bench, classifier(model)))

    assert outcome.findings == ()
    assert outcome.measurements["functions"][0]["kind"] == "tanh"


class Towers(nn.Module):
    """Two halves of each sample, to be matched with each other."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.left, self.right = (nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(2))
        self.temperature = temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = F.normalize(self.left(x[:, :8]), dim=-1), F.normalize(self.right(x[:, 8:]), dim=-1)
        return left @ right.T / self.temperature


def matching(temperature: float) -> Callable[[], dict[str, Any]]:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        logits = model(batch[0])
        return F.cross_entropy(logits, torch.arange(len(logits)))

    def setup() -> dict[str, Any]:
        keys = classifier(lambda: Towers(temperature), lr=2e-3)()
        del keys["loss_fn"]
        return {**keys, "compute_loss": loss}

    return setup


@pytest.mark.parametrize("seed", range(2))
def test_a_temperature_that_makes_every_guess_a_certainty_is_found(seed: int, make_bench: Any) -> None:
    (finding,) = CHECK.run(recorded(make_bench, matching(0.001), seed=seed)).findings

    assert (finding.code, finding.severity, finding.evidence["kind"]) == ("SC1101", "fail", "cross_entropy")
    assert finding.evidence["first"] > 10 * finding.evidence["constant"]


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_usual_temperatures_are_left_alone(temperature: float, make_bench: Any) -> None:
    assert CHECK.run(recorded(make_bench, matching(temperature))).findings == ()


def test_a_model_of_relus_is_not_judged(make_bench: Any) -> None:
    squares = lambda outputs, labels: (outputs - labels[:, None]).square().mean()  # noqa: E731
    with pytest.raises(Skip, match="no sigmoid"):
        CHECK.run(recorded(make_bench, classifier(loss_fn=squares)))


def gauged(model: nn.Module, inputs: torch.Tensor) -> GaugeWatch:
    setup = TrainingSetup(model=model, train_loader=[(inputs, None)], loss_fn=lambda outputs, _: outputs.sum())
    watch = GaugeWatch(model)
    watch_loss(Session(setup), (inputs, None), 0, watch)
    return watch


@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid"])
def test_saturated_is_where_the_slope_is_a_hundredth_of_the_steepest(kind: str) -> None:
    function = getattr(F, kind)
    inputs = torch.linspace(-15, 15, 3001, dtype=torch.float64).requires_grad_()

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    slopes = torch.autograd.grad(function(inputs).sum(), inputs)[0]
    (gauge,) = gauged(Model(), inputs).gauges.values()

    assert gauge.saturated == pytest.approx(float((slopes < 0.01 * slopes.max()).double().mean()), abs=2e-3)
    assert gauge.size == pytest.approx(float(inputs.square().mean().sqrt()), rel=1e-4)


def test_rows_of_attention_are_counted_over_the_keys_that_are_shown() -> None:
    logits = torch.tensor([[0.0, 9.0, -1e9], [1.0, 1.0, 2.0], [-1e9, 3.0, -1e9], [-1e9, -1e9, -1e9]]).requires_grad_()

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.softmax(-1)

    (gauge,) = gauged(Model(), logits).gauges.values()

    assert gauge.saturated == 0.5  # of the two rows with a choice
    assert gauge.masked == 0.25
    deviations = [-4.5, 4.5, -1 / 3, -1 / 3, 2 / 3]
    assert gauge.size == pytest.approx(math.sqrt(sum(d * d for d in deviations) / 5), rel=1e-5)


@pytest.mark.parametrize("call", [torch.tanh, torch.Tensor.tanh, lambda x: x.clone().tanh_(), nn.Tanh()])
def test_softened_functions_get_the_smaller_input(call: Any) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return call(x)

    model, inputs = Model(), torch.randn(8)
    with Softened(model, {("", "tanh"): 4.0}).inserted():
        out = model(inputs)

    torch.testing.assert_close(out, torch.tanh(inputs / 4.0))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", [8, 6])
def test_attention_that_runs_as_one_piece_is_gauged_and_softened_as_by_hand(keys: int, causal: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, kdim=keys, vdim=keys)
    inputs, memory = torch.randn(5, 3, 8), torch.randn(5, 3, keys)
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[1, 3:] = True
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: torch.Tensor) -> Any:
            return self.attention(
                x,
                memory,
                memory,
                attn_mask=mask,
                key_padding_mask=hidden,
                need_weights=True,
                average_attn_weights=False,
            )[1]

    model = Model()
    noted: list[torch.Tensor] = []

    class Reading(GaugeWatch):
        def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
            if name == "multi_head_attention_forward":
                logits = multi_head_logits(args, kwargs)
                assert logits is not None
                noted.append(logits)

    with Reading(model).inserted():
        weights = model(inputs)
    torch.testing.assert_close(noted[0].softmax(-1).view(weights.shape), weights)
    with Softened(model, {("attention", "attention"): 4.0}).inserted():
        softened = model(inputs)
    torch.testing.assert_close(softened, (noted[0] / 4).softmax(-1).view(weights.shape))
