"""Places where a value of a training run lives, so that another can be put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Slot:
    """Where a value lives, so that another can be put there."""

    get: Callable[[], Any]
    put: Callable[[Any], None]


def attribute_slot(item: Any, name: str) -> Slot:
    """The attribute of an object."""
    return Slot(lambda: getattr(item, name), lambda new: setattr(item, name, new))


def state_slot(item: Any, key: str) -> Slot:
    """An entry of an object's state_dict."""
    return Slot(lambda: item.state_dict()[key], lambda new: item.load_state_dict({**item.state_dict(), key: new}))


def item_slot(items: Any, key: Any) -> Slot:
    """An entry of a container."""
    return Slot(lambda: items[key], lambda new: items.__setitem__(key, new))


def fill(tensor: torch.Tensor, new: Any, slot: Slot | None) -> None:
    """Put values into a tensor in place, or another tensor into its slot where the sizes differ."""
    with torch.no_grad():
        if isinstance(new, torch.Tensor) and new.numel() == tensor.numel():
            tensor.copy_(new.reshape(tensor.shape))
        elif slot is not None:
            slot.put(new)
