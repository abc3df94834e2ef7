"""Walking the autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


def nodes_behind(*tensors: torch.Tensor, stop: Callable[[Any], bool] = lambda node: False) -> Iterator[Any]:
    """Every node of the graph behind `tensors`, once; what lies only behind a node at which to `stop` is left out."""
    stack: list[Any] = [t.grad_fn for t in tensors]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if not stop(node):
            stack.extend(parent for parent, _ in node.next_functions)
