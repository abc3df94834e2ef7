"""Autograd graphs across calls: how far back they reach, and which are kept alive."""

from __future__ import annotations

import bisect
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

MOST_NODES = 200_000
"""Nodes of one graph that are looked at."""
SAMPLED = 256
"""Elements of a tensor by which a change of it is noticed."""
NEAR = 4
"""Steps from the root within which a graph's own nodes are marked: the loss may have been divided or scaled since."""


class _Mark:
    pass


@dataclass
class Leaf:
    """A tensor that graphs end in, which may be gone since."""

    tensor: weakref.ref[torch.Tensor]
    first: torch.Tensor
    """Some of its elements when it was first met."""
    calls: set[int] = field(default_factory=set)
    """Calls in whose graphs it was."""
    graphs: int = 0
    """Graphs in which it was."""


@dataclass(frozen=True)
class Passing:
    """A parameter in the graph of one call."""

    call: int
    leaf: Leaf
    shape: tuple[int, ...]


def elements(tensor: torch.Tensor) -> torch.Tensor:
    """Some elements, by which a change is noticed."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)].clone()


class GraphLog:
    """The graphs that were differentiated, call by call. Nodes are numbered by autograd in the order of their making."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._marks: dict[int, list[weakref.ref[_Mark]]] = {}
        self.leaves: dict[int, Leaf] = {}
        """What the graphs end in, by the `id` of the tensor."""
        self.parameters: list[Passing] = []
        """Every nn.Parameter among these, in the order in which they were first met."""

    def begin(self) -> None:
        """A new call starts."""
        with torch.enable_grad():
            probe = torch.ones((), requires_grad=True) + 0
        self._starts.append(_number(probe.grad_fn) or 0)

    def look(self, root: torch.Tensor) -> tuple[int, int | None]:
        """(nodes behind `root`, the earliest call before this one that made any of them, or None)."""
        call = len(self._starts) - 1
        seen: set[Any] = set()
        level, depth = [root.grad_fn], 0
        oldest = call
        while level and len(seen) < MOST_NODES:
            following = []
            for node in level:
                if node is None or node in seen:
                    continue
                seen.add(node)
                number = _number(node)
                if number is None:
                    self._end(call, getattr(node, "variable", None))
                    continue
                if number >= self._starts[0]:
                    oldest = min(oldest, bisect.bisect_right(self._starts, number) - 1)
                    if depth < NEAR and number >= self._starts[call]:
                        self._mark(call, node)
                following += [parent for parent, _ in node.next_functions]
            level, depth = following, depth + 1
        return len(seen), oldest if oldest < call else None

    def _end(self, call: int, tensor: torch.Tensor | None) -> None:
        if tensor is None or tensor.layout != torch.strided:
            return
        known = self.leaves.get(id(tensor))
        if known is None or known.tensor() is not tensor:
            known = self.leaves[id(tensor)] = Leaf(weakref.ref(tensor), elements(tensor))
            if isinstance(tensor, nn.Parameter):
                self.parameters.append(Passing(call, known, tuple(tensor.shape)))
        known.calls.add(call)
        known.graphs += 1

    def unmoved(self) -> list[torch.Tensor]:
        """Tensors in which graphs of at least two calls end, and which are now as they were in the first."""
        lasting = [(leaf.tensor(), leaf.first) for leaf in self.leaves.values() if len(leaf.calls) > 1]
        return [tensor for tensor, first in lasting if tensor is not None and torch.equal(elements(tensor), first)]

    def made_anew(self) -> list[Passing]:
        """Parameters of the last call that were in one graph and are gone, as others of the same shape in each call before
        it. What is in several graphs of a call may have been trained between them."""
        calls = range(len(self._starts))
        gone = [p for p in self.parameters if p.leaf.tensor() is None and p.leaf.graphs == 1]
        shapes = {p.shape for p in gone if all(any(q.call == i and q.shape == p.shape for q in gone) for i in calls)}
        return [p for p in gone if p.call == calls[-1] and p.shape in shapes] if len(calls) > 1 else []

    def _mark(self, call: int, node: Any) -> None:
        mark = _Mark()
        try:
            node.metadata[id(self)] = mark
        except (AttributeError, RuntimeError):  # a node that takes no notes
            return
        self._marks.setdefault(call, []).append(weakref.ref(mark))

    def alive(self) -> int:
        """Calls of which some graph is still in memory."""
        if self._count() > 1:
            gc.collect()  # what only refers to itself is not kept by anyone
        return self._count()

    def _count(self) -> int:
        return sum(any(mark() is not None for mark in marks) for marks in self._marks.values())


def _number(node: Any) -> int | None:
    """The place of a node in the order of making; None for the leaves' own nodes, which are older than any call."""
    try:
        number = int(node._sequence_nr())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return number if number < 2**63 else None
