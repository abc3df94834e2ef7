"""Validations whose numbers do not tell of the model's answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.eval_mode import CHECK
from stabcheck.trial.validation.answers import right_answers
from tests.setups import blobs, classifier, mlp

MakeBench = Callable[..., Any]
Validate = Callable[[nn.Module, Any], Callable[[], Any]]
MEASURING = {"SC0620", "SC0621", "SC0622"}


def built(validate: Validate, batch_size: int = 64) -> Callable[[], dict[str, Any]]:
    """A classifier with a validation of 200 samples."""

    def setup() -> dict[str, Any]:
        parts = classifier(mlp)()
        inputs, labels = blobs(200, seed=9)
        parts["val_loader"] = DataLoader(TensorDataset(inputs, labels), batch_size=batch_size)
        return parts | {"validate": validate(parts["model"], parts["val_loader"])}

    return setup


def over_batches(number: Callable[[torch.Tensor, torch.Tensor], float]) -> Validate:
    """The mean over batches of what `number` makes of outputs and targets."""

    def make(model: nn.Module, loader: Any) -> Callable[[], Any]:
        @torch.no_grad()
        def validate() -> float:
            model.eval()
            found = [number(model(x), y) for x, y in loader]
            model.train()
            return sum(found) / len(found)

        return validate

    return make


def last_batch(model: nn.Module, loader: Any) -> Callable[[], Any]:
    @torch.no_grad()
    def validate() -> dict[str, float]:
        model.eval()
        total, accuracy = 0.0, 0.0
        for x, y in loader:
            total += float(F.cross_entropy(model(x), y))
            accuracy = float((model(x).argmax(1) == y).float().mean())
        model.train()
        return {"loss": total / len(loader), "accuracy": accuracy}

    return validate


def last_batch_once(model: nn.Module, loader: Any) -> Callable[[], Any]:
    @torch.no_grad()
    def validate() -> dict[str, float]:
        model.eval()
        total, accuracy, criterion = 0.0, 0.0, nn.CrossEntropyLoss()
        for x, y in loader:
            out = model(x)
            total += float(criterion(out, y))
            accuracy = float((out.argmax(1) == y).float().mean())
        model.train()
        return {"loss": total / len(loader), "accuracy": accuracy}

    return validate


def going_on(keep: str) -> Validate:
    """A validation whose sums are never cleared ("sum", "mean"), smoothed over validations ("smooth"), or a best so far."""

    def make(model: nn.Module, loader: Any) -> Callable[[], Any]:
        held = {"hits": 0.0, "seen": 0.0, "smooth": 0.0, "best": 0.0, "calls": 0.0}

        @torch.no_grad()
        def validate() -> dict[str, float]:
            model.eval()
            hits = sum(float((model(x).argmax(1) == y).sum()) for x, y in loader)
            model.train()
            held["calls"] += 1
            held["hits"] += hits
            held["seen"] += 200
            held["smooth"] = 0.9 * held["smooth"] + 0.1 * hits
            held["best"] = max(held["best"], hits)
            number = {"sum": held["hits"], "mean": held["hits"] / held["seen"], "smooth": held["smooth"]}
            return (
                {keep: number[keep]}
                if keep in number
                else {"accuracy": hits / 200, "best": held["best"], "calls": held["calls"]}
            )

        return validate

    return make


def loaded_ahead(model: nn.Module, loader: Any) -> Callable[[], Any]:
    @torch.no_grad()
    def validate() -> float:
        model.eval()
        held = list(loader)
        hits = sum(float((model(x).argmax(1) == y).sum()) for x, y in held)
        model.train()
        return hits / 200

    return validate


ACCURACY = over_batches(lambda out, y: float((out.argmax(1) == y).float().mean()))
FAULTY: dict[str, tuple[str, Callable[[], Any]]] = {
    "accuracy of the last batch": ("SC0620", built(last_batch_once)),
    "sum never cleared": ("SC0621", built(going_on("sum"))),
    "mean never cleared": ("SC0621", built(going_on("mean"))),
    "all compared with all": (
        "SC0622",
        built(over_batches(lambda out, y: float((out.argmax(1, keepdim=True) == y).float().mean()))),
    ),
    "targets of another batch": (
        "SC0622",
        built(over_batches(lambda out, y: float((out.argmax(1) == y.flip(0)).float().mean()))),
    ),
}
HEALTHY: dict[str, Callable[[], Any]] = {
    "accuracy": built(ACCURACY),
    "accuracy of one batch": built(ACCURACY, 200),
    "two forwards": built(last_batch, 200),
    "loss": built(over_batches(lambda out, y: float(F.cross_entropy(out, y)))),
    "perplexity": built(over_batches(lambda out, y: float(F.cross_entropy(out, y).exp()))),
    "confidence beside accuracy": built(going_on("best")),
    "smoothed over validations": built(going_on("smooth")),
    "batches held first": built(loaded_ahead),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FAULTY)
def test_numbers_that_do_not_measure(make_bench: MakeBench, name: str, seed: int) -> None:
    code, setup = FAULTY[name]
    outcome = CHECK.run(make_bench(setup, seed=seed))
    assert [(f.code, f.severity) for f in outcome.findings] == [(code, "fail")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HEALTHY)
def test_numbers_that_measure(make_bench: MakeBench, name: str, seed: int) -> None:
    outcome = CHECK.run(make_bench(HEALTHY[name], seed=seed))
    assert not MEASURING & {f.code for f in outcome.findings}


def test_a_loss_that_cannot_tell_either(make_bench: MakeBench) -> None:
    """As for a density or a critic: which sample an output belongs to does not matter to it."""

    def setup() -> dict[str, Any]:
        parts = built(over_batches(lambda out, y: float(out.logsumexp(1).mean())))()
        return parts | {"loss_fn": lambda out, y: out.logsumexp(1).square().mean()}

    assert not MEASURING & {f.code for f in CHECK.run(make_bench(setup)).findings}


@pytest.mark.parametrize(
    ("shape", "targets", "loss"),
    [
        ((8, 5), torch.arange(8) % 5, F.cross_entropy),
        ((8, 5, 3), torch.arange(24).reshape(8, 3) % 5, F.cross_entropy),
        ((8, 1), (torch.arange(8) % 2).float(), lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], y)),
        ((8, 4), torch.randn(8, 4), F.mse_loss),
        ((8, 1), torch.randn(8), lambda out, y: F.mse_loss(out[:, 0], y)),
    ],
)
def test_right_answers_have_next_to_no_loss(shape: tuple[int, ...], targets: torch.Tensor, loss: Any) -> None:
    answers = right_answers(torch.randn(shape) * 3, targets)
    assert answers is not None
    assert answers.shape == shape
    assert float(loss(answers, targets)) < 0.01


def test_no_right_answers_where_shapes_do_not_tell() -> None:
    assert right_answers(torch.randn(8, 7), torch.randn(8)) is None
    assert right_answers(torch.randn(4, 7), torch.arange(8)) is None


def keeping(how: str) -> Validate:
    """A validation that keeps the best weights: copied, or not."""

    def make(model: nn.Module, loader: Any) -> Callable[[], Any]:
        held: dict[str, Any] = {"score": 0.0, "best": None, "now": None}
        ways = {
            "reference": model.state_dict,
            "shallow": lambda: dict(model.state_dict()),
            "model": lambda: model,
            "deep": lambda: copy.deepcopy(model.state_dict()),
            "clones": lambda: {key: value.clone() for key, value in model.state_dict().items()},
            "deep model": lambda: copy.deepcopy(model),
        }

        @torch.no_grad()
        def validate() -> float:
            model.eval()
            score = sum(float((model(x).argmax(1) == y).sum()) for x, y in loader) / 200
            model.train()
            held["now"] = model.state_dict()  # to be written later: it is meant to be the present one
            if score >= held["score"]:
                held.update(score=score, best=ways[how]())
            return score

        return validate

    return make


@pytest.mark.parametrize(("how", "codes"), [
    ("reference", ["SC0623"]), ("shallow", ["SC0623"]), ("model", ["SC0623"]), ("deep", []), ("clones", []), ("deep model", []),
])  # fmt: skip
def test_best_weights_that_are_no_copy(make_bench: MakeBench, how: str, codes: list[str]) -> None:
    assert [f.code for f in CHECK.run(make_bench(built(keeping(how)))).findings] == codes
