"""The samples behind a loader, read one by one and without its workers.

A sample is one item of the dataset behind a loader. Where there is no such dataset (a list of batches, a
custom iterable) the batches are cut into samples again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from stabcheck.trial import batches
from stabcheck.userland import UserCodeError, userland

ENUMERATED = 5_000_000
"""Indices that are taken from a sampler of unknown kind, which may be endless."""

Indices = Sequence[Any] | np.ndarray[Any, Any]


@dataclass
class Source:
    """The samples of one loader.

    `style` is how they are reached: "items" by `dataset[i]` for the indices that the sampler draws, "stream" by
    iterating an IterableDataset, "batches" by iterating the loader and cutting what it yields.
    """

    key: str
    loader: Any
    style: Literal["items", "stream", "batches"]
    dataset: Any = None
    indices: Indices = field(default_factory=list)
    given: Source | None = None
    """The source as the user's functions know it, where this one reads what lies beneath."""

    @property
    def total(self) -> int | None:
        """How many samples there are; None if only reading would tell."""
        return len(self.indices) if self.style == "items" else None

    def read(self, index: Any) -> Any:
        """The sample at one index of the dataset (style "items").

        Raises:
            UserCodeError: the dataset raised.
        """
        with userland(f"{self.key}.dataset[{index}]"):
            return self.dataset[index]

    def samples(self) -> Iterator[Any]:
        """The samples in the order in which they come (styles "stream" and "batches").

        Raises:
            UserCodeError: the loader or its dataset raised.
        """
        cut = self.style == "batches" or getattr(self.loader, "batch_size", 1) is None
        for item in _guarded(self.dataset if self.style == "stream" else self.loader, self.key):
            yield from unbatched(item) if cut else (item,)


def behind(loader: Any, key: str) -> Source:
    """The samples behind `loader`; `key` is its name in the set-up.

    Raises:
        UserCodeError: its sampler raised.
    """
    if not isinstance(loader, DataLoader):
        return Source(key, loader, "batches")
    if isinstance(loader.dataset, IterableDataset):
        return Source(key, loader, "stream", loader.dataset)
    indices = drawn(loader, key)
    if indices is None or len(indices) == 0:
        return Source(key, loader, "batches")
    source = Source(key, loader, "items", loader.dataset, indices)
    try:
        source.read(indices[0])
    except UserCodeError:
        # Some datasets work only as the loader calls them: in a worker, or by __getitems__.
        return Source(key, loader, "batches")
    return source


def drawn(loader: DataLoader[Any], key: str) -> Indices | None:
    """The distinct indices that the loader draws, in ascending order where they are numbers; None if not single ones.

    Raises:
        UserCodeError: a sampler of the user's raised.
    """
    batch_sampler: Any = loader.batch_sampler
    if batch_sampler is None:
        return None
    known = type(batch_sampler) is BatchSampler
    sampler: Any = batch_sampler.sampler if known else batch_sampler
    if isinstance(sampler, (SequentialSampler, RandomSampler, DistributedSampler)):
        drawn_from: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
        with userland(f"{key}.sampler"):
            return np.arange(len(drawn_from))
    if isinstance(sampler, SubsetRandomSampler):
        found: Iterable[Any] = sampler.indices
    elif isinstance(sampler, WeightedRandomSampler):
        found = torch.nonzero(sampler.weights).flatten().tolist()
    else:
        rows = _guarded(sampler, f"{key}.sampler")
        found = itertools.islice(rows if known else itertools.chain.from_iterable(rows), ENUMERATED)
    listed = list(found)
    if all(isinstance(i, (int, np.integer)) or (isinstance(i, torch.Tensor) and i.numel() == 1) for i in listed):
        return np.unique(np.asarray([int(i) for i in listed], dtype=np.int64))
    return list(dict.fromkeys(listed))


def _guarded(iterable: Any, stage: str) -> Iterator[Any]:
    with userland(stage):
        iterator = iter(iterable)
    while True:
        with userland(stage):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def unbatched(batch: Any) -> Iterator[Any]:
    """The samples of one batch: element j of everything in it that has one element a sample."""
    if isinstance(batch, list) and batch and all(isinstance(item, (tuple, Mapping)) for item in batch):
        yield from batch  # a collate_fn that only makes lists
        return
    count = batches.size(batch)
    for j in range(count):
        yield _pick(batch, j, count)


def _pick(value: Any, j: int, count: int) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value[j] if value.ndim and value.shape[0] == count else value
    if isinstance(value, Mapping):
        return {key: _pick(item, j, count) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        column = len(value) == count and not any(isinstance(v, (torch.Tensor, np.ndarray, Mapping)) for v in value)
        return value[j] if column else tuple(_pick(item, j, count) for item in value)
    return value


# --- where the samples are kept


@dataclass(frozen=True)
class Part:
    """Rows `indices` of one dataset that is neither a Subset nor a ConcatDataset."""

    dataset: Any
    indices: np.ndarray[Any, Any]


def parts(source: Source) -> list[Part]:
    """The datasets below all Subset and ConcatDataset, with the rows that the loader draws; empty if not known."""
    if source.style != "items" or not isinstance(source.indices, np.ndarray):
        return []
    return list(_resolve(source.dataset, source.indices))


def _resolve(dataset: Any, indices: np.ndarray[Any, Any]) -> Iterator[Part]:
    if isinstance(dataset, Subset):
        below = np.asarray(dataset.indices)
        if below.dtype.kind in "iu" and len(indices) and indices.max() < len(below):
            yield from _resolve(dataset.dataset, below[indices])
    elif isinstance(dataset, ConcatDataset):
        first = 0
        for piece, end in zip(dataset.datasets, dataset.cumulative_sizes, strict=True):
            yield from _resolve(piece, indices[(indices >= first) & (indices < end)] - first)
            first = end
    elif len(indices):
        yield Part(dataset, np.where(indices < 0, indices + len(dataset), indices) if indices.min() < 0 else indices)


def shared_rows(train: Source, val: Source) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """Each dataset that both loaders draw from, with the positions among validation's indices that training draws too."""
    found: dict[int, tuple[Any, list[np.ndarray[Any, Any]]]] = {}
    start = 0
    for mine in parts(val):
        same = [theirs.indices for theirs in parts(train) if theirs.dataset is mine.dataset]
        if same:
            both = start + np.flatnonzero(np.isin(mine.indices, np.concatenate(same)))
            found.setdefault(id(mine.dataset), (mine.dataset, []))[1].append(both)
        start += len(mine.indices)
    return [(dataset, np.concatenate(positions)) for dataset, positions in found.values()]


def columns(source: Source) -> tuple[tuple[torch.Tensor, ...], np.ndarray[Any, Any]] | None:
    """The tensors of the one plain TensorDataset behind the loader and the rows that it draws, in its order."""
    found = parts(source)
    if len(found) == 1 and type(found[0].dataset) is TensorDataset and len(found[0].indices) == len(source.indices):
        return found[0].dataset.tensors, found[0].indices
    return None


def stored(dataset: Any) -> dict[str, Any]:
    """What a dataset object keeps with one row for each of its samples: name -> rows, in the dataset's own order.

    Where reading a sample adds random augmentation these rows are the samples before it.
    """
    if not hasattr(dataset, "__dict__"):
        return {}
    count, found = len(dataset), {}
    for name, value in vars(dataset).items():
        inside: Any = {}
        if isinstance(value, Mapping):
            inside = value
        elif isinstance(value, (list, tuple)) and len(value) != count:
            inside = dict(enumerate(value))
        for path, rows in [(name, value), *((f"{name}.{key}", item) for key, item in inside.items())]:
            if _rows(rows, count):
                found[path] = getattr(rows, "iloc", rows)  # a data frame is indexed by column
    return found


def _rows(value: Any, count: int) -> bool:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__getitem__"):
        return False
    try:
        return len(value) == count
    except Exception:  # it has no length, is a tensor without axes, or whatever the user's object says
        return False
