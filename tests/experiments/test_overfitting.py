from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from setups import blobs, classifier
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.overfitting import CHECK
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
