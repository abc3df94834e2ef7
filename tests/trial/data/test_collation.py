"""Collate functions that tear samples apart, and those that only look like it (SC1724)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from stabcheck.experiments.data_health import CHECK

Items = list[tuple[torch.Tensor, int]]


def rows(seed: int) -> Items:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 12, (160,), generator=generator).tolist()
    return [(torch.randint(1, 9, (n,), generator=generator), i % 3) for i, n in enumerate(lengths)]


def by_length(items: Items) -> Items:
    return sorted(items, key=lambda item: -len(item[0]))


def padded(items: Items) -> tuple[torch.Tensor, torch.Tensor]:
    return pad_sequence([x for x, _ in items], batch_first=True), torch.tensor([y for _, y in items])


def inputs_sorted(items: Items) -> Any:
    return padded(by_length(items))[0], padded(items)[1]


def labels_shuffled(items: Items) -> Any:
    x, y = padded(items)
    return x, y[torch.randperm(len(y))]


def texts_in_a_dict(items: Items) -> Any:
    x, y = padded(sorted(items, key=lambda item: int(item[0][0])))
    return {"ids": x, "picture": torch.stack([item[0][:3].float() for item in items]), "labels": y}


def all_sorted(items: Items) -> Any:
    return padded(by_length(items))


def with_negatives(items: Items) -> Any:
    x, y = padded(items)
    return {"anchor": x, "negative": x.roll(1, 0), "labels": y}


def matched_or_not(items: Items) -> Any:
    x, _ = padded(items)
    swap = torch.rand(len(x)) < 0.5
    order = torch.where(swap, torch.arange(len(x)).roll(1), torch.arange(len(x)))
    return {"one": x, "two": x[order], "labels": (order == torch.arange(len(x))).long()}


def hidden_words(items: Items) -> Any:
    x, y = padded(items)
    return torch.where(torch.rand(x.shape) < 0.2, torch.zeros_like(x), x), y


def mixed_up(items: Items) -> Any:
    x, y = padded(items)
    order = torch.randperm(len(x))
    return 0.5 * x.float() + 0.5 * x[order].float(), torch.stack([y, y[order]], 1)


def check(make_bench: Callable[..., Any], collate: Any, seed: int) -> dict[str, Any]:
    def entry() -> dict[str, Any]:
        model = nn.Embedding(10, 3)
        loader = DataLoader(rows(seed), 16, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
        loss = lambda model, batch: model.weight.sum()  # noqa: E731
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return {"model": model, "train_loader": loader, "compute_loss": loss, "optimizer": optimizer, "max_steps": 9}

    return {f.code: f.evidence for f in CHECK.run(make_bench(entry, seed=seed)).findings}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("collate", [inputs_sorted, labels_shuffled, texts_in_a_dict])
def test_parts_of_different_samples_in_one_row(make_bench: Callable[..., Any], collate: Any, seed: int) -> None:
    found = check(make_bench, collate, seed)
    assert found["SC1724"]["rows"] > found["SC1724"]["of"] / 4


@pytest.mark.parametrize("collate", [padded, all_sorted, with_negatives, matched_or_not, hidden_words, mixed_up])
def test_samples_that_stay_whole(make_bench: Callable[..., Any], collate: Any) -> None:
    for seed in range(3):
        assert "SC1724" not in check(make_bench, collate, seed)
