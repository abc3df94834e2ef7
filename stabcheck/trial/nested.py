"""Finding the tensors that an attribute leads to, through containers, objects and closures."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

DEEPEST = 4
"""Containers and objects within each other that are looked into, from a module's attribute on."""
MOST_VISITED = 50_000
Item = tuple[torch.Tensor, nn.Module | None]
"""A tensor and the module whose parameter it is."""


def inside(value: Any, visited: set[int], depth: int) -> Iterator[Item]:
    """All tensors that `value` leads to."""
    if depth > DEEPEST or len(visited) > MOST_VISITED or id(value) in visited:
        return
    if value is None or isinstance(value, (bool, int, float, str, bytes, type, types.ModuleType)):
        return
    visited.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value, None
    elif isinstance(value, nn.Module):
        for sub in value.modules():
            yield from ((p, sub) for p in sub.parameters(recurse=False))
    else:
        for part in _parts(value):
            yield from inside(part, visited, depth + 1)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, types.FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    return list(getattr(value, "__dict__", {}).values())
