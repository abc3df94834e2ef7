from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.eval_mode import CHECK
from stabcheck.userland import UserCodeError
from tests.experiments import validation_cases as cases
from tests.experiments.validation_cases import careful, careless, leaves_eval, setup

MakeBench = Callable[..., Any]
CASES = str(Path(cases.__file__))


def judge(make_bench: MakeBench, function: Callable[[], Any], seed: int = 0, **options: Any) -> Outcome:
    outcome: Outcome = CHECK.run(make_bench(function, seed=seed, **options))
    return outcome


def found(outcome: Outcome) -> set[tuple[str, str]]:
    return {(finding.code, finding.severity) for finding in outcome.findings}


def norm() -> nn.Module:
    return nn.BatchNorm1d(32)


def drop() -> nn.Module:
    return nn.Dropout(0.3)


MODAL: list[Callable[[], nn.Module]] = [drop, norm, partial(cases.Attention, 0.1), partial(cases.Recurrent, 0.3)]
"""One net for each kind of module that has two modes."""

HEALTHY: dict[str, Callable[[], Any]] = {
    "no mode": lambda: setup(nn.Identity, careless),
    "layer norm": lambda: setup(lambda: nn.LayerNorm(32), careless),
    "no mode left in eval": lambda: setup(lambda: nn.LayerNorm(32), leaves_eval, train_mode=False),
    "dropout of zero": lambda: setup(lambda: nn.Dropout(0.0), careless),
    "step sets the mode": lambda: setup(drop, leaves_eval),
    "guarded function": lambda: setup(lambda: cases.FunctionalDropout("guarded"), careful),
    "function that drops nothing": lambda: setup(lambda: cases.FunctionalDropout("nothing"), careful),
    "guarded drop path": lambda: setup(lambda: cases.DropPath(True), careful),
    "draws in vain": lambda: setup(cases.DrawsInVain, careful),
    "sampling from a forked seed": lambda: setup(cases.Sampler, cases.seeded(forked=True)),
    "sampling in a fork": lambda: setup(cases.Sampler, cases.seeded(forked=True, reseeds=False)),
    "sampling": lambda: setup(cases.Sampler, careful),
    "Monte Carlo": lambda: setup(drop, cases.monte_carlo(5)),
    "Monte Carlo in passes over the data": lambda: setup(drop, cases.in_passes(4)),
    "Monte Carlo by name": lambda: setup(lambda: cases.MCDropout(0.3), careful),
    "train() keeps a norm frozen": lambda: setup(cases.KeepsFrozen, careful),
    "frozen norm": lambda: cases.frozen_norm(woken=False),
    "guarded buffer": lambda: setup(lambda: cases.RunningScale("guarded"), careful),
    "counting buffer": lambda: setup(lambda: cases.RunningScale("counts"), careful),
    "average": cases.averaged,
    "weights swapped back": lambda: cases.swapped(back=True),
    "attack": lambda: cases.backward(attack=True),
    "gradients cleaned": lambda: cases.backward(clean=True, zero_first=False),
    "probe": cases.probes,
    "both loaders": lambda: cases.over(("train_loader", "val_loader")),
    "gradients enabled": lambda: cases.keeps_graphs(item=True),
}

FAULTY: dict[str, tuple[Callable[[], Any], tuple[str, str]]] = {
    "function by default": (lambda: setup(lambda: cases.FunctionalDropout("default"), careful), ("SC0603", "fail")),
    "function of torch": (lambda: setup(lambda: cases.FunctionalDropout("torch"), careful), ("SC0603", "fail")),
    "attention": (lambda: setup(lambda: cases.FunctionalDropout("attention"), careful), ("SC0603", "fail")),
    "drop path": (lambda: setup(lambda: cases.DropPath(False), careful), ("SC0603", "fail")),
    "drop path, no eval": (lambda: setup(lambda: cases.DropPath(True), careless), ("SC0601", "fail")),
    "dropout set to train once": (lambda: setup(drop, cases.monte_carlo(1)), ("SC0601", "warn")),
    "dropout in the loss": (lambda: setup(nn.Identity, cases.noisy_loss), ("SC0603", "warn")),
    "hidden in a list": (lambda: setup(cases.Hidden, careful), ("SC0602", "fail")),
    "train() forgets": (lambda: setup(cases.Stubborn, careful), ("SC0602", "fail")),
    "train() in forward": (lambda: setup(cases.SwitchesItself, careful), ("SC0602", "fail")),
    "frozen norm woken": (lambda: cases.frozen_norm(woken=True), ("SC0607", "fail")),
    "buffer": (lambda: setup(lambda: cases.RunningScale("always"), careful), ("SC0604", "fail")),
    "average in training mode": (lambda: cases.averaged(in_eval=False), ("SC0601", "fail")),
    "stale copy": (lambda: cases.averaged(follows=False), ("SC0615", "warn")),
    "weights left swapped": (lambda: cases.swapped(back=False), ("SC0605", "fail")),
    "trains": (cases.trains, ("SC0605", "fail")),
    "gradients that leak": (lambda: cases.backward(zero_first=False), ("SC0606", "fail")),
    "attack that leaks": (lambda: cases.backward(zero_first=False, attack=True), ("SC0606", "fail")),
    "gradients cleared by the step": (lambda: cases.backward(), ("SC0606", "warn")),
    "gradients, unknown loop": (lambda: cases.backward(own_step=False), ("SC0606", "fail")),
    "training data": (lambda: cases.over(("train_loader",)), ("SC0610", "fail")),
    "only training data": (lambda: cases.over(("train_loader",), give_val=False), ("SC0610", "warn")),
    "graphs": (lambda: cases.keeps_graphs(item=False), ("SC0612", "warn")),
    "gradients off": (lambda: cases.disturbing("grad off"), ("SC0616", "fail")),
    "parameters frozen": (lambda: cases.disturbing("frozen"), ("SC0616", "fail")),
    "parameters double": (lambda: cases.disturbing("double"), ("SC0617", "fail")),
    "data used up": (lambda: cases.disturbing("used up"), ("SC0609", "fail")),
    "seed set": (lambda: setup(cases.Sampler, cases.seeded(forked=False)), ("SC0618", "warn")),
    "nothing done": (lambda: {**setup(nn.Identity), "validate": lambda: None}, ("SC0609", "warn")),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_validation_is_left_alone(make_bench: MakeBench, name: str) -> None:
    assert judge(make_bench, HEALTHY[name]).findings == ()


@pytest.mark.parametrize("name", FAULTY)
def test_fault_is_found_and_nothing_else(make_bench: MakeBench, name: str) -> None:
    function, expected = FAULTY[name]
    assert found(judge(make_bench, function)) == {expected}


@pytest.mark.parametrize("inner", MODAL)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_module_with_two_modes(make_bench: MakeBench, inner: Callable[[], nn.Module], seed: int) -> None:
    def told(*arguments: Any, **options: Any) -> set[tuple[str, str]]:
        return found(judge(make_bench, lambda: setup(inner, *arguments, **options), seed))

    assert told(careful) == set()
    assert told() == set()
    assert told(careless) == {("SC0601", "fail")}
    assert told(leaves_eval, train_mode=False) == {("SC0607", "fail")}


def test_training_mode_is_named_with_place_and_both_numbers(make_bench: MakeBench) -> None:
    outcome = judge(make_bench, lambda: setup(drop, careless))
    finding = outcome.findings[0]
    assert finding.location == "inner"
    assert finding.source is not None
    assert finding.source[0] == CASES
    assert "inner (Dropout)" in finding.message
    assert "never called" in finding.message
    returned = outcome.measurements["returned"][""]
    in_eval = outcome.measurements["returned_in_eval_mode"][""]
    assert f"{returned:.5g}" in finding.message
    assert f"{in_eval:.5g}" in finding.message
    assert outcome.summary == "validate() runs inner (Dropout) in training mode"


def test_numbers_are_those_of_validating_by_hand(make_bench: MakeBench) -> None:
    """The same set-up trained the same way and validated without anyone watching."""
    made: list[dict[str, Any]] = []

    def remembered() -> dict[str, Any]:
        made.append(setup(nn.Identity, careful))
        return made[-1]

    outcome = judge(make_bench, remembered)
    torch.manual_seed(0)
    alone = setup(nn.Identity, careful)
    for _, batch in zip(range(outcome.measurements["steps_before"]), alone["train_loader"], strict=False):
        alone["train_step"](batch)
    assert outcome.measurements["returned"] == alone["validate"]()
    assert outcome.measurements["returned_again"] == outcome.measurements["returned"]


def test_functional_dropout_is_found_at_its_line(make_bench: MakeBench) -> None:
    finding = judge(make_bench, FAULTY["function by default"][0]).findings[0]
    assert finding.location == "inner"
    assert finding.source is not None
    line = Path(finding.source[0]).read_text().splitlines()[finding.source[1] - 1]
    assert line.strip() == "return F.dropout(x, 0.3)"
    assert "probability 0.3" in finding.message


def test_modules_out_of_reach_are_named_with_the_reason(make_bench: MakeBench) -> None:
    hidden = judge(make_bench, FAULTY["hidden in a list"][0]).findings[0]
    assert hidden.location == "inner.layers[0]"
    assert "outside the module tree" in hidden.message
    stubborn = judge(make_bench, FAULTY["train() forgets"][0]).findings[0]
    assert stubborn.location == "inner.drop"
    assert "Stubborn.train()" in stubborn.message
    assert stubborn.source is not None
    switching = judge(make_bench, FAULTY["train() in forward"][0]).findings[0]
    assert switching.source is not None
    assert Path(switching.source[0]).read_text().splitlines()[switching.source[1] - 1].strip() == "self.drop.train()"


def test_without_validate_the_model_is_tested_and_the_report_says_so(make_bench: MakeBench) -> None:
    def textbook(how: str, *without: str) -> Outcome:
        parts = setup(lambda: cases.FunctionalDropout(how))
        return judge(make_bench, lambda: {k: v for k, v in parts.items() if k not in without})

    for without in [(), ("val_loader",), ("train_step",)]:
        assert found(textbook("default", *without)) == {("SC0603", "fail")}
        assert textbook("guarded", *without).findings == ()
    assert "add 'validate'" in textbook("guarded").not_checked[0].why
    assert "training batches were used" in textbook("guarded", "val_loader").not_checked[0].why


def test_mode_left_is_not_judged_without_a_train_step(make_bench: MakeBench) -> None:
    outcome = judge(make_bench, lambda: {**setup(drop, leaves_eval), "train_step": None})
    assert outcome.findings == ()
    assert "train_step" in outcome.not_checked[0].why


def test_training_in_eval_mode_all_along(make_bench: MakeBench) -> None:
    def as_loaded() -> dict[str, Any]:
        parts = setup(drop, careful, train_mode=False)
        parts["model"].eval()
        return parts

    assert found(judge(make_bench, as_loaded)) == {("SC0608", "warn")}


@pytest.mark.parametrize("seed", range(3))
def test_statistics_that_never_move_are_told_whatever_they_cost(make_bench: MakeBench, seed: int) -> None:
    outcome = judge(make_bench, lambda: setup(lambda: nn.BatchNorm1d(32, momentum=0.0), careful), seed)
    assert {code for code, _ in found(outcome)} == {"SC0614"}


def sleeping(which: Callable[[nn.Module], nn.Module], *, wakes: bool) -> dict[str, Any]:
    """train_step puts what `which` picks into eval mode; validate() puts the model back into training mode or as it was."""
    parts = setup(drop, careful, train_mode=False)
    model, step, validate = parts["model"], parts["train_step"], parts["validate"]

    def train_step(batch: Any) -> torch.Tensor:
        which(model).eval()
        loss: torch.Tensor = step(batch)
        return loss

    def waking() -> Any:
        found = validate()
        if wakes:
            model.train()
        return found

    return {**parts, "train_step": train_step, "validate": waking}


@pytest.mark.parametrize("seed", range(3))
def test_eval_called_in_the_step_fails_where_validation_ends_in_training_mode(make_bench: MakeBench, seed: int) -> None:
    outcome = judge(make_bench, lambda: sleeping(lambda model: model, wakes=True), seed)
    assert found(outcome) == {("SC0608", "fail")}
    assert "before the forward pass" in outcome.findings[0].fix
    assert found(judge(make_bench, lambda: sleeping(lambda model: model, wakes=False), seed)) == {("SC0608", "warn")}


def test_a_part_that_the_step_freezes_is_meant(make_bench: MakeBench) -> None:
    def frozen() -> dict[str, Any]:
        return sleeping(lambda model: next(m for m in model.modules() if isinstance(m, nn.Dropout)), wakes=True)

    assert judge(make_bench, frozen).findings == ()


def test_model_that_gives_no_loss_in_eval_mode_is_skipped(make_bench: MakeBench) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            scores = self.layer(x)
            return F.cross_entropy(scores, y) if self.training else scores.argmax(1)

    def detection() -> dict[str, Any]:
        parts, model = setup(nn.Identity), Detector()
        return {
            "model": model,
            "train_loader": parts["train_loader"],
            "compute_loss": lambda model, batch: model(*batch),
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        }

    with pytest.raises(Skip, match="add 'validate'"):
        judge(make_bench, detection)


def test_validation_that_raises_is_the_users_error(make_bench: MakeBench) -> None:
    def fails() -> None:
        raise KeyError("label")

    with pytest.raises(UserCodeError, match="label"):
        judge(make_bench, lambda: {**setup(nn.Identity), "validate": fails})


def test_empty_and_broken_validation_data(make_bench: MakeBench) -> None:
    def with_data(inputs: torch.Tensor, **options: Any) -> Outcome:
        loader = DataLoader(TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long)), **options)
        return judge(make_bench, lambda: {**setup(nn.Identity), "val_loader": loader})

    assert found(with_data(torch.randn(3, 16), batch_size=8, drop_last=True)) == {("SC0609", "fail")}
    assert found(with_data(torch.full((3, 16), torch.nan))) == {("SC0611", "fail")}
    assert found(with_data(torch.randn(3, 16))) == set()


def test_long_validation_is_broken_off_and_said_so(make_bench: MakeBench) -> None:
    def slow(parts: dict[str, Any]) -> Callable[[], Any]:
        def validate() -> None:
            for _ in range(1000):
                for x, _ in parts["val_loader"]:
                    parts["model"](x)
                    time.sleep(0.02)

        return validate

    outcome = judge(make_bench, lambda: setup(drop, slow), deadline=time.monotonic() + 3)
    assert found(outcome) == {("SC0601", "fail")}
    assert any("broken off" in item.why for item in outcome.not_checked)


def images(inner: nn.Module, *, batch_size: int = 64, count: int = 1024, max_epochs: int = 15) -> dict[str, Any]:
    """Classes that differ by a pattern and its strength, so that BatchNorm sees very different scales."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (count,), generator=generator)
    patterns = torch.randn(4, 16, generator=generator)
    inputs = 0.2 * (patterns[labels] + 0.5 * torch.randn(count, 16, generator=generator))
    return {
        "model": inner,
        "train_loader": DataLoader(TensorDataset(inputs, labels), batch_size=batch_size, shuffle=True),
        "loss_fn": F.cross_entropy,
        "optimizer": torch.optim.Adam(inner.parameters(), lr=2e-3),
        "max_epochs": max_epochs,
    }


def normed(momentum: float = 0.1) -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32, momentum=momentum), nn.ReLU(), nn.Linear(32, 32),
        nn.BatchNorm1d(32, momentum=momentum), nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip


class SharedNorm(nn.Module):
    """One BatchNorm in two places whose inputs have different scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.norm = nn.BatchNorm1d(32)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(torch.relu(self.norm(self.second(torch.relu(self.norm(self.first(x)))))))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_batch_norm_that_serves_two_places(make_bench: MakeBench, seed: int) -> None:
    outcome = judge(make_bench, lambda: images(SharedNorm()), seed)
    assert found(outcome) == {("SC0613", "fail")}
    assert outcome.findings[0].location == "norm"
    assert "2 times" in outcome.findings[0].message
    assert judge(make_bench, lambda: images(normed()), seed).findings == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_momentum_too_small_for_the_planned_run(make_bench: MakeBench, seed: int) -> None:
    outcome = judge(make_bench, lambda: images(normed(0.001)), seed)
    assert found(outcome) == {("SC0614", "fail")}
    assert outcome.findings[0].location == "1"
    steps = 15 * 16
    assert f"{0.999**steps:.0%} of the running statistics" in outcome.findings[0].message
    assert judge(make_bench, lambda: images(normed(0.001), max_epochs=1000), seed).findings == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_momentum_that_keeps_only_a_small_last_batch(make_bench: MakeBench, seed: int) -> None:
    assert found(judge(make_bench, lambda: images(normed(0.99), count=1026), seed)) == {("SC0614", "fail")}
    assert judge(make_bench, lambda: images(normed(0.99)), seed).findings == ()
    assert judge(make_bench, lambda: images(normed(0.1), count=1026), seed).findings == ()


@pytest.mark.parametrize("touches", [True, False])
def test_an_optimizer_that_validation_resets_is_seen(make_bench: Any, touches: bool) -> None:
    from tests.setups import classifier

    def build() -> dict[str, Any]:
        made = classifier()()
        network, optimizer = made["model"], made["optimizer"]

        def validate() -> float:
            network.eval()
            with torch.no_grad():
                losses = [float(made["loss_fn"](network(x), y)) for x, y in made["train_loader"]]
            network.train()
            if touches:
                for state in optimizer.state.values():
                    state["exp_avg"].zero_()
            return sum(losses) / len(losses)

        return {**made, "val_loader": list(made["train_loader"]), "validate": validate}

    codes = [f.code for f in CHECK.run(make_bench(build)).findings]

    assert ("SC0619" in codes) == touches
