from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from stabcheck.experiments.determinism import CHECK, STEPS
from stabcheck.trial.seeded_run import digest
from tests.setups import blobs, classifier, mlp

Make = Callable[..., Any]


class Noisy(Dataset[Any]):
    """Adds noise from a generator of its own."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.inputs, self.labels = blobs()
        self.generator = generator

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        noise = self.generator.standard_normal(16).astype(np.float32)
        return self.inputs[index] + torch.from_numpy(noise), self.labels[index]


def with_data(make_generator: Callable[[], np.random.Generator]) -> Any:
    return lambda: {**classifier()(), "train_loader": DataLoader(Noisy(make_generator()), batch_size=32, shuffle=True)}


def from_the_clock() -> nn.Module:
    model, generator = mlp(), torch.Generator()
    generator.seed()
    nn.init.normal_(model[2].weight, generator=generator)
    return model


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize(
    "entry",
    [
        classifier(dropout),
        with_data(lambda: np.random.default_rng(0)),
        with_data(lambda: np.random.default_rng(np.random.randint(2**31))),
    ],
)
def test_a_run_that_follows_the_seed_is_repeated_to_the_last_bit(entry: Any, make_bench: Make) -> None:
    outcome = CHECK.run(make_bench(entry))
    assert outcome.findings == ()
    assert outcome.measurements["first_difference"] is None
    assert outcome.measurements["steps"] == STEPS
    assert outcome.measurements["forward_repeats"] is True
    assert outcome.measurements["loss_apart"] == outcome.measurements["weights_apart"] == 0.0


def test_weights_from_the_clock_are_a_warning(make_bench: Make) -> None:
    (finding,) = CHECK.run(make_bench(classifier(from_the_clock))).findings
    assert (finding.code, finding.severity, finding.location) == ("SC2001", "warn", "2.weight")
    assert finding.evidence["count"] == 1


def test_data_beyond_the_seed_is_a_warning(make_bench: Make) -> None:
    (finding,) = CHECK.run(make_bench(with_data(np.random.default_rng))).findings
    assert (finding.code, finding.severity, finding.evidence["index"]) == ("SC2002", "warn", 1)


def loss_beyond_the_seed(noise: float) -> Any:
    generator = np.random.default_rng(0)  # never seeded again: each run goes on in its stream

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1]) * (1 + noise * generator.random())

    return classifier(loss_fn=None, compute_loss=compute_loss)


def test_a_loss_that_differs_by_a_little_is_measured(make_bench: Make) -> None:
    outcome = CHECK.run(make_bench(loss_beyond_the_seed(1e-5)))
    assert outcome.findings == ()
    assert outcome.measurements["first_difference"] == "first loss"
    assert outcome.measurements["forward_repeats"] is False
    assert 0.0 < outcome.measurements["loss_apart"] < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_differs_by_more_than_rounding_is_a_warning(seed: int, make_bench: Make) -> None:
    (finding,) = CHECK.run(make_bench(loss_beyond_the_seed(0.1), seed=seed)).findings

    assert (finding.code, finding.severity) == ("SC2004", "warn")
    one, two = finding.evidence["one"], finding.evidence["two"]
    assert finding.evidence["times"] == pytest.approx(abs(one - two) / max(one, two) * 2**23)


def reseeding(seed: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    """A set-up whose step begins with `seed()`."""

    def entry() -> dict[str, Any]:
        parts = classifier(dropout)()
        model, optimizer = parts["model"], parts["optimizer"]

        def step(batch: Any) -> torch.Tensor:
            seed()
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            return loss

        return {**parts, "train_step": step}

    return entry


@pytest.mark.parametrize(
    "seed",
    [
        lambda: torch.manual_seed(time.time_ns() % 2**31),
        torch.seed,
        lambda: np.random.seed(time.time_ns() % 2**31),
        lambda: random.seed(os.urandom(8)),
    ],
    ids=["torch, clock", "torch, entropy", "numpy, clock", "python, entropy"],
)
def test_generators_that_are_seeded_from_outside_are_a_warning(seed: Callable[[], Any], make_bench: Make) -> None:
    (finding,) = CHECK.run(make_bench(reseeding(seed))).findings
    assert (finding.code, finding.severity, finding.evidence["step"]) == ("SC2005", "warn", 1)


@pytest.mark.parametrize("seed", [lambda: torch.manual_seed(3), lambda: None, lambda: torch.rand(2)])
def test_generators_that_follow_the_seed_are_silent(seed: Callable[[], Any], make_bench: Make) -> None:
    assert CHECK.run(make_bench(reseeding(seed))).findings == ()


def test_noise_in_the_gradient_shows_a_step_later(make_bench: Make) -> None:
    generator = np.random.default_rng(0)  # never seeded again: each run goes on in its stream

    def entry() -> dict[str, Any]:
        parts = classifier()()
        model, optimizer = parts["model"], parts["optimizer"]

        def step(batch: Any) -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            for parameter in model.parameters():
                parameter.grad += torch.from_numpy(generator.standard_normal(parameter.shape)).float()
            optimizer.step()
            return loss.item()

        return {**parts, "train_step": step}

    (finding,) = CHECK.run(make_bench(entry)).findings

    assert finding.code == "SC2004"
    assert finding.evidence["step"] >= 2  # the first loss is computed before the first update


def test_losses_that_cancel_to_rounding_are_left_alone(make_bench: Make) -> None:
    generator = np.random.default_rng(0)  # never seeded again: each run goes on in its stream

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        outputs = model(batch[0])
        return (outputs - outputs.mean()).mean() + 1e-7 * generator.random()

    assert CHECK.run(make_bench(classifier(loss_fn=None, compute_loss=compute_loss))).findings == ()


def test_a_loss_that_differs_is_a_warning_where_determinism_is_asked_for(make_bench: Make) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        (finding,) = CHECK.run(make_bench(loss_beyond_the_seed(0.01))).findings
    finally:
        torch.use_deterministic_algorithms(False)
    assert (finding.code, finding.severity) == ("SC2003", "warn")
    assert "first loss" in finding.message


def test_without_an_optimizer_weights_and_data_are_compared(make_bench: Make) -> None:
    entry = with_data(np.random.default_rng)
    (finding,) = CHECK.run(make_bench(lambda: {**entry(), "optimizer": None})).findings
    assert finding.code == "SC2002"


def test_a_digest_tells_values_types_and_shapes_apart() -> None:
    tensor = torch.arange(6.0)
    assert digest(tensor) == digest(tensor.clone())
    others = [tensor + 1e-6, tensor.double(), tensor.view(2, 3), tensor[:5], tensor.flip(0)]
    assert len({digest(t) for t in [tensor, *others]}) == 6
    assert digest(torch.zeros(2, dtype=torch.bfloat16)) != digest(torch.zeros(2))
    assert digest(torch.tensor(1.0)) != digest()
