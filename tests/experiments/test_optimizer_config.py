from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.optimizer_config import CHECK
from stabcheck.trial.recorder import record_trial
from tests.setups import classifier, mlp

MakeBench = Callable[..., Any]
SGD, Adam, AdamW, RMSprop = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop


def judge(make_bench: MakeBench, function: Callable[[], Any], seed: int = 0) -> Outcome:
    bench = make_bench(function, seed=seed)
    bench.recording = record_trial(bench, steps=40)
    outcome: Outcome = CHECK.run(bench)
    return outcome


def found(outcome: Outcome) -> set[tuple[str, str]]:
    return {(finding.code, finding.severity) for finding in outcome.findings}


def built(make: Callable[[nn.Module], Any], **keys: Any) -> Callable[[], dict[str, Any]]:
    """Blobs with the optimizer that `make` builds for the model."""

    def setup() -> dict[str, Any]:
        made = classifier(**keys)()
        return {**made, "optimizer": make(made["model"])}

    return setup


def options(kind: Any, **values: Any) -> Callable[[], dict[str, Any]]:
    return built(lambda model: kind(model.parameters(), **values))


IMPOSSIBLE = {
    "momentum of one": (options(SGD, lr=1e-3, momentum=1.0), "SC2402"),
    "momentum of nine": (options(SGD, lr=1e-6, momentum=9.0), "SC2402"),
    "gradient dampened away": (options(SGD, lr=0.1, momentum=0.9, dampening=1.0), "SC2402"),
    "squares never taken in": (options(RMSprop, lr=1e-9, alpha=1.0), "SC2402"),
}
HARMFUL = {
    "decay of one": (options(SGD, lr=0.1, weight_decay=1.0), "SC2406"),
    "decay of AdamW given to Adam": (options(Adam, lr=1e-2, weight_decay=1.0), "SC2406"),
    "decoupled decay": (options(AdamW, lr=1e-2, weight_decay=50.0), "SC2406"),
    "eps of one": (options(Adam, lr=1e-3, eps=1.0), "SC2405"),
    "Adagrad that stops by itself": (options(torch.optim.Adagrad, lr=3e-3, lr_decay=1.0), "SC2410"),
    "averaged SGD that stops by itself": (options(torch.optim.ASGD, lr=0.01, lambd=1e3, alpha=1.0), "SC2410"),
    "momentum beyond the run": (options(SGD, lr=0.1, momentum=0.9999), "SC2403"),
}
HEALTHY = {
    "SGD": options(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "dampened like an average": options(SGD, lr=0.5, momentum=0.9, dampening=0.9),
    "long memory, rate to match": options(SGD, lr=1e-3, momentum=0.995),
    "L2 with Adam": options(Adam, lr=1e-2, weight_decay=1e-4),
    "strong decoupled decay": options(AdamW, lr=1e-2, weight_decay=1.0),
    "no memory": options(Adam, lr=1e-2, betas=(0.0, 0.9)),
    "eps of one with a rate to match": options(Adam, lr=1.0, eps=1.0),
    "RMSprop with momentum": options(RMSprop, lr=1e-3, momentum=0.9),
    "Adagrad": options(torch.optim.Adagrad, lr=0.05, lr_decay=1e-3),
    "Adagrad with a rate to match its decay": options(torch.optim.Adagrad, lr=1.0, lr_decay=0.2),
    "averaged SGD": options(torch.optim.ASGD, lr=0.1),
    "LBFGS": options(torch.optim.LBFGS, lr=0.1),
    "Adafactor": options(torch.optim.Adafactor, lr=1e-2),
    "a score that is climbed": built(
        lambda model: Adam(model.parameters(), lr=1e-2, maximize=True), loss_fn=lambda o, t: -F.cross_entropy(o, t)
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_values_that_cannot_work_fail(make_bench: MakeBench, name: str) -> None:
    setup, code = IMPOSSIBLE[name]

    assert found(judge(make_bench, setup)) == {(code, "fail")}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", HARMFUL)
def test_an_option_fails_where_the_same_steps_train_without_it(make_bench: MakeBench, name: str, seed: int) -> None:
    setup, code = HARMFUL[name]

    outcome = judge(make_bench, setup, seed)

    assert found(outcome) == {(code, "fail")}
    assert all(repaired - own > 0.3 for own, repaired in outcome.findings[0].evidence["shares"])


@pytest.mark.parametrize("name", HEALTHY)
def test_common_and_odd_habits_are_silent(make_bench: MakeBench, name: str) -> None:
    outcome = judge(make_bench, HEALTHY[name])

    assert not outcome.findings
    assert not outcome.not_checked


def test_a_loss_that_is_climbed_fails(make_bench: MakeBench) -> None:
    outcome = judge(make_bench, options(Adam, lr=1e-2, maximize=True))

    assert found(outcome) == {("SC2401", "fail")}


def test_swapped_betas_warn_where_no_harm_is_seen(make_bench: MakeBench) -> None:
    outcome = judge(make_bench, options(Adam, lr=1e-2, betas=(0.99, 0.9)))

    assert found(outcome) == {("SC2404", "warn")}


def test_gradients_below_the_default_eps_ask_for_a_larger_loss(make_bench: MakeBench) -> None:
    setup = classifier(loss_fn=lambda o, t: 1e-12 * F.cross_entropy(o, t), max_steps=100)

    (finding,) = judge(make_bench, setup).findings

    assert (finding.code, finding.severity) == ("SC2405", "fail")
    assert finding.fix.startswith("multiply the loss")
    assert finding.evidence["share"] > 0.9


def test_negative_decay_fails(make_bench: MakeBench) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = SGD(model.parameters(), lr=0.1)
        optimizer.param_groups[0]["weight_decay"] = -1e-4  # the constructor would refuse it
        return optimizer

    assert found(judge(make_bench, built(make))) == {("SC2407", "fail")}


@pytest.mark.parametrize(("p", "expected"), [(1.0, {("SC2408", "fail")}), (0.9, set())])
def test_dropout_of_everything_fails(make_bench: MakeBench, p: float, expected: set[tuple[str, str]]) -> None:
    def model() -> nn.Module:
        layers = mlp()
        return nn.Sequential(*layers[:4], nn.Dropout(p), layers[4])

    assert found(judge(make_bench, classifier(model))) == expected


def test_dropout_of_everything_that_is_never_called_is_silent(make_bench: MakeBench) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.drop = mlp(), nn.Dropout(1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(x)
            return out

    assert not judge(make_bench, classifier(Unused)).findings


def test_group_at_rate_zero_warns(make_bench: MakeBench) -> None:
    def make(model: Any) -> torch.optim.Optimizer:
        head = {"params": model[4].parameters(), "lr": 0.0}
        return Adam([{"params": model[:4].parameters()}, head], lr=1e-2)

    outcome = judge(make_bench, built(make))

    assert found(outcome) == {("SC2409", "warn")}
    assert "4.weight" in outcome.findings[0].message


def test_frozen_group_at_rate_zero_is_silent(make_bench: MakeBench) -> None:
    def make(model: Any) -> torch.optim.Optimizer:
        model[0].requires_grad_(False)
        return Adam([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[1:].parameters()}], lr=1e-2)

    assert not judge(make_bench, built(make)).findings


def test_decayed_norms_and_biases_are_counted(make_bench: MakeBench) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4))

    outcome = judge(make_bench, built(lambda m: AdamW(m.parameters(), lr=1e-2, weight_decay=0.01), model=model))

    assert outcome.measurements["decayed_norms"] == 2
    assert outcome.measurements["decayed_biases"] == 2


def test_without_a_torch_optimizer_it_is_skipped(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        made = classifier()()
        model = made["model"]

        def train_step(batch: Any) -> float:
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
            return float(loss)

        return {**{k: v for k, v in made.items() if k != "optimizer"}, "train_step": train_step}

    with pytest.raises(Skip):
        judge(make_bench, setup)


def test_without_losses_nothing_is_concluded(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        made = options(SGD, lr=0.1, weight_decay=1.0)()
        model, optimizer = made["model"], made["optimizer"]

        def train_step(batch: Any) -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()

        return {**made, "train_step": train_step}

    outcome = judge(make_bench, setup)

    assert not outcome.findings
    assert "returns no loss" in outcome.not_checked[0].why
