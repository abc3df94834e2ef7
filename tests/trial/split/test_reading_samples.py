"""The samples behind every kind of loader are the ones that the loader yields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from stabcheck.trial.split.samples import Source, behind, columns, parts, shared_rows, stored, unbatched
from stabcheck.userland import UserCodeError

ROWS = torch.arange(20.0)
DATA = TensorDataset(ROWS)


class Batches:
    """A batch sampler of the user's own."""

    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), 3):
            yield self.indices[start : start + 3]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return ((row, 0) for row in ROWS)


class NeedsWorker(Dataset[Any]):
    """Raises for a single index, as datasets do that open their files in a worker or fetch lists of rows."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("ask for a list")

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [ROWS[i] for i in indices]


def values(source: Source) -> list[float]:
    """The numbers in all samples of a source, in order."""
    samples = [source.read(i) for i in source.indices] if source.style == "items" else list(source.samples())
    return sorted(float(s[0] if isinstance(s, (tuple, list)) else s) for s in samples)


LOADERS: dict[str, tuple[Any, list[int]]] = {
    "plain": (DataLoader(DATA, batch_size=4), list(range(20))),
    "shuffled": (DataLoader(DATA, batch_size=4, shuffle=True), list(range(20))),
    "subset": (DataLoader(Subset(DATA, [3, 5, 7]), batch_size=2), [3, 5, 7]),
    "random subset": (DataLoader(DATA, sampler=SubsetRandomSampler([2, 9])), [2, 9]),
    "weights": (DataLoader(DATA, sampler=WeightedRandomSampler([0.0] * 17 + [1.0] * 3, 50)), [17, 18, 19]),
    "ranks": (DataLoader(DATA, sampler=DistributedSampler(DATA, 2, 0)), list(range(20))),
    "own sampler": (DataLoader(DATA, sampler=[4, 4, 1]), [1, 4]),
    "own batches": (DataLoader(DATA, batch_sampler=Batches([8, 1, 5, 6])), [1, 5, 6, 8]),
    "stream": (DataLoader(Stream(), batch_size=3), list(range(20))),
    "no batching": (DataLoader(DATA, batch_size=None, sampler=[[0, 1], [5, 6]]), [0, 1, 5, 6]),
    "list of batches": ([(ROWS[:8], ROWS[:8]), (ROWS[8:11], ROWS[8:11])], list(range(11))),
    "list of dicts": ([{"x": ROWS[:3], "n": [1, 2, 3]}], [0, 1, 2]),
    "only by lists": (DataLoader(NeedsWorker(), batch_size=4), list(range(20))),
}


@pytest.mark.parametrize("name", LOADERS)
def test_samples_are_those_that_the_loader_yields(name: str) -> None:
    loader, expected = LOADERS[name]
    source = behind(loader, "train_loader")
    if name == "list of dicts":
        assert [(float(s["x"]), s["n"]) for s in source.samples()] == [(0.0, 1), (1.0, 2), (2.0, 3)]
    else:
        assert values(source) == [float(i) for i in expected]


def test_batches_are_cut_into_samples() -> None:
    pair = list(unbatched((torch.arange(6).reshape(3, 2), torch.tensor([7, 8, 9]))))
    assert [(a.tolist(), int(b)) for a, b in pair] == [([0, 1], 7), ([2, 3], 8), ([4, 5], 9)]
    lists = [({"text": "a"}, 0), ({"text": "b"}, 1)]
    assert list(unbatched(lists)) == lists  # a collate_fn that only makes lists


def test_a_dataset_that_fails_is_blamed_on_the_user() -> None:
    class Broken(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            raise ValueError("no such file")

    with pytest.raises(UserCodeError, match="no such file"):
        list(behind(DataLoader(Broken()), "val_loader").samples())


def test_rows_are_found_through_nested_subsets_and_concatenations() -> None:
    other = TensorDataset(ROWS + 100)
    nested = ConcatDataset([Subset(Subset(DATA, list(range(10, 20))), [0, 2]), other])
    found = parts(behind(DataLoader(nested, sampler=SubsetRandomSampler([1, 2, 5])), "train_loader"))
    assert [(part.dataset is DATA, part.indices.tolist()) for part in found] == [(True, [12]), (False, [0, 3])]


def test_shared_rows_are_those_drawn_by_both() -> None:
    train = behind(DataLoader(Subset(DATA, list(range(12)))), "train_loader")
    val = behind(DataLoader(ConcatDataset([TensorDataset(ROWS), Subset(DATA, [19, 11, 3])])), "val_loader")
    [(dataset, positions)] = shared_rows(train, val)
    assert dataset is DATA
    assert positions.tolist() == [21, 22]
    assert shared_rows(train, behind(DataLoader(Subset(DATA, [15])), "val_loader"))[0][1].size == 0


def test_tensors_are_read_directly_only_from_a_plain_tensor_dataset() -> None:
    class Own(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            return tuple(t[index] * 2 for t in self.tensors)

    found = columns(behind(DataLoader(Subset(DATA, [9, 4])), "train_loader"))
    assert found is not None
    assert found[0][0] is ROWS
    assert found[1].tolist() == [9, 4]
    assert columns(behind(DataLoader(Own(ROWS)), "train_loader")) is None


def test_stored_rows_are_attributes_with_one_row_a_sample() -> None:
    class Kept(Dataset[Any]):
        def __init__(self) -> None:
            self.images, self.names, self.scale = np.zeros((5, 3)), ["a"] * 5, 2.0
            self.parts, self.table, self.classes = (np.ones(5), "x"), {"y": [1] * 5, "z": [1]}, ["cat", "dog"]

        def __len__(self) -> int:
            return 5

    assert set(stored(Kept())) == {"images", "names", "parts.0", "table.y"}
    assert set(stored(TensorDataset(ROWS, ROWS))) == {"tensors.0", "tensors.1"}
