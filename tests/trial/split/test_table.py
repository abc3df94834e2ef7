"""Reading: everything where it fits, an even part where it does not, and the same digests however samples are stored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from stabcheck.trial.split.fields import Roles
from stabcheck.trial.split.samples import behind
from stabcheck.trial.split.table import Reading, Table, hashable, read
from stabcheck.userland import UserCodeError

ROWS, LABELS = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0)), torch.arange(3000) % 3
READING = Reading(Roles(("0",), "1"), frozenset({"0"}))


class Items(Dataset[Any]):
    """The same samples in another form, each after a pause."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.pause)
        return ROWS[index].double().reshape(2, 3), int(LABELS[index])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(ROWS.numpy(), LABELS.tolist(), strict=True)


def table(dataset: Any, seconds: float = 30.0, reading: Reading = READING) -> Table:
    return read(behind(DataLoader(dataset, batch_size=7), "train_loader"), reading, seconds)


def test_a_sample_has_one_digest_however_it_is_stored() -> None:
    tables = [table(data) for data in (TensorDataset(ROWS, LABELS), Items(), Stream())]
    for part in ("inputs", "whole", "labels", "folded"):
        digests = [getattr(t, part)[np.argsort(t.index)] for t in tables]
        assert (digests[0] == digests[1]).all()
        assert (digests[0] == digests[2]).all()
    assert len(set(tables[0].inputs.tolist())) == 3000
    assert len(set(tables[0].labels.tolist())) == 3


def test_kept_values_belong_to_their_rows() -> None:
    found = table(TensorDataset(ROWS, LABELS))
    assert np.array_equal(found.values["0"].rows, ROWS.numpy()[found.index[found.kept]])
    assert found.values["0"].shape == (6,)
    assert not found.cut_short


def test_what_does_not_fit_the_time_is_an_even_part() -> None:
    found = table(Items(0.001), 0.3, Reading(READING.roles, READING.floats, each=0.001))
    assert found.cut_short
    assert 20 < len(found) < 1500
    assert 0.4 < found.index.mean() / 1500 < 1.6


def test_negative_zero_and_missing_values_have_one_form() -> None:
    one, two = torch.tensor([[0.0, float("nan")]]), torch.tensor([[-0.0, float("nan")]])
    assert table(TensorDataset(one, LABELS[:1])).inputs == table(TensorDataset(two, LABELS[:1])).inputs


def test_lists_of_different_lengths_and_texts_are_read() -> None:
    samples: Any = [([1, 2, 3], 0), ([4, 5], 1), ("Some text", 1)]
    found = table(samples, reading=Reading(Roles(("0",), "1")))
    assert len(set(found.inputs.tolist())) == 3


def test_keys_are_equal_by_value_and_blamed_on_the_user() -> None:
    assert hashable(torch.tensor([1, 2])) == hashable(np.array([1, 2])) == (1, 2)
    assert hashable(torch.tensor(3)) == 3
    assert hashable({"b": [1], "a": {2}}) == (("a", "{2}"), ("b", (1,)))
    found = table(TensorDataset(ROWS, LABELS), reading=Reading(READING.roles, READING.floats, lambda s: s[1]))
    assert [found.groups[i] for i in np.argsort(found.index)] == LABELS.tolist()
    with pytest.raises(UserCodeError, match="group_key: KeyError"):
        table(TensorDataset(ROWS, LABELS), reading=Reading(READING.roles, READING.floats, lambda s: {}["who"]))
