"""Batches of any shape: how many samples they hold, moving, copying and cutting them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor inside `value`, depth first."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dict__") and not callable(value):
        for item in vars(value).values():
            if isinstance(item, torch.Tensor):
                yield item


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """A copy of `value` with `function` applied to every tensor; containers keep their type where they can."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, Mapping):
        mapped = {key: map_tensors(item, function) for key, item in value.items()}
        if type(value) is dict:
            return mapped
        try:
            clone = copy.copy(value)
            clone.update(mapped)  # type: ignore[attr-defined]
        except Exception:  # a read-only Mapping
            return mapped
        return clone
    return value


def all_finite(batch: Any) -> bool:
    """Whether no floating tensor in the batch holds a NaN or an infinity."""
    return all(bool(torch.isfinite(t).all()) for t in tensors(batch) if t.is_floating_point())


def size(batch: Any) -> int:
    """Samples in the batch: the first axis of its first tensor with one, else the length of its first list; 1 if neither."""
    for tensor in tensors(batch):
        if tensor.dim() > 0:
            return int(tensor.shape[0])
    if isinstance(batch, (list, tuple)) and batch and isinstance(batch[0], (list, tuple)):
        return len(batch[0])
    return 1


def holding(given: Iterable[Any], count: int) -> list[Any]:
    """The first batches of `given` that hold `count` samples together, or all of them."""
    taken: list[Any] = []
    for batch in given:
        taken.append(batch)
        if sum(map(size, taken)) >= count:
            break
    return taken


def to_device(batch: Any, device: torch.device | None) -> Any:
    """The batch on `device`; unchanged for None. Objects with a `.to` of their own (packed sequences) use it."""
    if device is None:
        return batch
    if not isinstance(batch, (torch.Tensor, Mapping, list, tuple)) and hasattr(batch, "to"):
        return batch.to(device)
    return map_tensors(batch, lambda t: t.to(device, non_blocking=True))


def clone(batch: Any) -> Any:
    """A copy that shares no memory with `batch`."""
    try:
        return copy.deepcopy(batch)
    except Exception:  # tensors that require grad, or objects that cannot be copied
        return map_tensors(batch, lambda t: t.detach().clone())


def cut(batch: Any, count: int) -> Any:
    """The first `count` samples of the batch, or the batch itself where its parts do not share a first axis."""
    whole = size(batch)
    if whole <= count:
        return batch

    def first(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[:count] if value.dim() and value.shape[0] == whole else value
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            is_column = len(value) == whole and not any(
                isinstance(v, torch.Tensor) and v.dim() and v.shape[0] == whole for v in value
            )
            return type(value)(value[:count]) if is_column else type(value)(first(v) for v in value)
        if isinstance(value, tuple):
            return type(value)(*(first(v) for v in value))
        if isinstance(value, Mapping):
            cut_items = {key: first(item) for key, item in value.items()}
            if type(value) is dict:
                return cut_items
            new = copy.copy(value)
            new.update(cut_items)  # type: ignore[attr-defined]
            return new
        return value

    if not isinstance(batch, (torch.Tensor, Mapping, list, tuple)):
        return batch
    return first(batch)
