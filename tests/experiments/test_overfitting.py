from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from setups import blobs, classifier
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from stabcheck.check import Outcome, Skip
from stabcheck.experiments import overfitting
from stabcheck.experiments.overfitting import CHECK
from stabcheck.reading import LATER
from stabcheck.trial.bench import Bench

MakeBench = Callable[..., Bench]


def validated(val_loader: Any, **keys: Any) -> Callable[[], dict[str, Any]]:
    return classifier(val_loader=val_loader, **keys)


def held(count: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*blobs(count)), **{"batch_size": 8, **options})


def judged(make_bench: MakeBench, setup: Callable[[], Any]) -> Outcome:
    return CHECK.run(make_bench(setup))


def codes(outcome: Outcome) -> list[str]:
    return [f"{f.code} {f.severity}" for f in outcome.findings]


def test_a_dozen_validation_samples_beside_many_are_told(make_bench: MakeBench) -> None:
    outcome = judged(make_bench, validated(held(12)))
    assert codes(outcome) == ["SC1401 warn"]
    # The half-width by drawing: 95 % of the accuracies of a coin on 12 samples lie within it.
    accuracy = torch.randint(0, 2, (20_000, 12), generator=torch.Generator().manual_seed(0)).float().mean(1)
    within = ((accuracy - 0.5).abs() <= outcome.findings[0].evidence["width"]).float().mean()
    assert within == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("count", [16, 100])
def test_more_samples_are_enough(make_bench: MakeBench, count: int) -> None:
    assert codes(judged(make_bench, validated(held(count)))) == []


def test_a_small_training_set_has_none_to_give(make_bench: MakeBench) -> None:
    assert codes(judged(make_bench, validated(held(12), train_loader=held(120)))) == []


def test_samples_that_hold_many_targets_are_not_few(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        train, val = (DataLoader(TensorDataset(torch.randn(n, 16), torch.randn(n, 4)), batch_size=4) for n in (400, 8))
        return {**validated(val)(), "train_loader": train, "loss_fn": torch.nn.MSELoss()}

    assert codes(judged(make_bench, setup)) == []


def test_drop_last_that_hides_a_part_of_the_validation_set(make_bench: MakeBench) -> None:
    outcome = judged(make_bench, validated(held(100, batch_size=64, drop_last=True)))
    assert codes(outcome) == ["SC1402 warn"]
    assert outcome.findings[0].evidence["count"] == 64
    assert codes(judged(make_bench, validated(held(100, batch_size=16, drop_last=True)))) == []


def test_counts_are_those_of_a_real_pass(make_bench: MakeBench) -> None:
    outcome = judged(make_bench, validated(held(100)))
    parts = classifier()()
    assert outcome.measurements["training_samples"] == sum(len(labels) for _, labels in parts["train_loader"])
    assert outcome.measurements["trained_parameters"] == sum(p.numel() for p in parts["model"].parameters())
    assert outcome.measurements["training_targets"] == 512


def test_a_stream_is_counted_as_far_as_it_is_read(make_bench: MakeBench) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            while True:
                yield torch.zeros(16), torch.tensor(0)

    outcome = judged(make_bench, validated(DataLoader(Stream(), batch_size=8)))
    assert outcome.measurements["validation_samples"] == 1000
    assert not outcome.measurements["counted_to_the_end"]


def test_without_validation_data_there_is_nothing_to_say(make_bench: MakeBench) -> None:
    with pytest.raises(Skip, match="val_loader"):
        judged(make_bench, classifier())


def test_of_one_graph_the_nodes_of_the_loss_are_counted(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        inputs, labels = blobs(200)
        sides = {"train": torch.arange(200) < 120, "val": torch.arange(200) >= 190}
        network = torch.nn.Linear(16, 4)
        return {
            "model": network,
            **{f"{side}_loader": [(inputs, labels, mask)] for side, mask in sides.items()},
            "compute_loss": lambda model, batch: torch.nn.functional.cross_entropy(
                model(batch[0])[batch[2]], batch[1][batch[2]]
            ),
            "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
        }

    outcome = judged(make_bench, setup)
    assert outcome.measurements["training_samples"] == outcome.measurements["training_targets"] == 120
    assert outcome.measurements["validation_samples"] == 10
    assert not outcome.findings


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a rehearsal is as long as on an idle one."""
    monkeypatch.setattr(overfitting, "SECONDS", 60.0)


def planned(
    train: int, val: int, *, noise: float = 0.0, epochs: int = 200, width: int = 64, **keys: Any
) -> Callable[[], Any]:
    """A net that is to tell the sign of a sum, of which `noise` hides a part; `keys` replace those of the set-up."""

    def setup() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(7)
        inputs = torch.randn(train + val, 16, generator=generator)
        labels = (inputs.sum(1) / 4 + noise * torch.randn(train + val, generator=generator) > 0).long()
        model = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))
        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(inputs[:train], labels[:train]), batch_size=20, shuffle=True),
            "val_loader": DataLoader(TensorDataset(inputs[train:], labels[train:]), batch_size=100),
            "loss_fn": nn.CrossEntropyLoss(),
            "optimizer": torch.optim.Adam(model.parameters(), lr=1e-2),
            "max_epochs": epochs,
            **keys,
        }

    return setup


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("seed", range(3))
def test_a_handful_of_training_samples_is_learnt_by_heart(make_bench: MakeBench, seed: int) -> None:
    (finding,) = CHECK.run(make_bench(planned(30, 400), seed=seed)).findings

    assert (finding.code, finding.severity) == ("SC1403", "warn")
    evidence = finding.evidence
    assert (evidence["train"], evidence["val"], evidence["parameters"]) == (30, 400, 17 * 64 + 65 * 2)
    assert evidence["low"] < evidence["high"] / 4


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("seed", range(3))
def test_a_validation_loss_that_turns_within_the_plan(make_bench: MakeBench, seed: int) -> None:
    outcome = CHECK.run(make_bench(planned(200, 200, noise=1.5, epochs=300), seed=seed))

    assert codes(outcome) == ["SC1404 warn"]
    course = outcome.measurements["rehearsed"]
    evidence = outcome.findings[0].evidence
    assert evidence["lowest"] == min(course["validation_loss"]) < evidence["first"] == course["validation_loss"][0]
    assert evidence["high"] == course["validation_loss"][-1] > evidence["first"]


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    "setup",
    [
        planned(200, 200, epochs=100),
        planned(30, 400, epochs=1),
        planned(30, 400, max_epochs=None),
        planned(400, 200, noise=1.5, epochs=20),
    ],
    ids=["learnt", "hardly trained", "without a length", "few epochs"],
)
def test_plans_that_do_not_overfit_are_silent(make_bench: MakeBench, setup: Any) -> None:
    assert codes(judged(make_bench, setup)) == []


def test_the_rehearsal_is_the_planned_training(make_bench: MakeBench) -> None:
    measured = judged(make_bench, planned(200, 200, epochs=60)).measurements["rehearsed"]

    torch.manual_seed(0)
    parts = planned(200, 200, epochs=60)()
    with torch.no_grad():
        untrained = [parts["loss_fn"](parts["model"](x), y).item() for x, y in parts["val_loader"]]
    assert measured["steps"][0] == 0
    assert measured["validation_loss"][0] == pytest.approx(sum(untrained) / len(untrained), rel=1e-5)


def test_a_loss_that_only_the_step_knows_is_not_followed(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = planned(30, 400, loss_fn=None)()
        model, optimizer = parts["model"], parts["optimizer"]

        def train_step(batch: Any) -> Any:
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return {**parts, "train_step": train_step}

    outcome = judged(make_bench, setup)
    assert codes(outcome) == []
    assert outcome.not_checked[0].what == LATER.what
