"""What the rectifier probe saw, gathered over the trial."""

from __future__ import annotations

from typing import Any

import torch

from stabcheck.reading import FIRST_STEPS, silent_window
from stabcheck.recording import Rectifier
from stabcheck.trial.probes import RectifierCall

MAX_CALLS = 512
MAX_NODES = 50_000
WORTH_TRACING = 0.5


class RectifierLog:
    """First and last firing step of every unit of every rectifying call."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.samples_per_step = 1
        self.written: dict[tuple[str, str], bool] = {}
        self._units: dict[tuple[str, int], tuple[RectifierCall, torch.Tensor, torch.Tensor, list[int]]] = {}
        self._bypassed: dict[tuple[str, int], bool | None] = {}

    @property
    def window(self) -> int:
        """Steps at the end that decide whether a unit is dead."""
        return silent_window(self.samples_per_step, self.steps)

    def wants(self, index: int) -> bool:
        """Whether this step is watched."""
        return index < FIRST_STEPS or index >= self.steps - self.window

    def add(self, index: int, calls: list[RectifierCall]) -> None:
        """Take in one step."""
        for call in calls[:MAX_CALLS]:
            key = (call.module, call.call)
            if key not in self._units:
                never = torch.full_like(call.fired, -1, dtype=torch.int32)
                self._units[key] = (call, never, never.clone(), [])
            _, first, last, observed = self._units[key]
            if first.shape != call.fired.shape:
                continue
            observed.append(index)
            first[call.fired & (first < 0)] = index
            last[call.fired] = index

    def trace(self, index: int, root: torch.Tensor, calls: list[RectifierCall]) -> None:
        """At the last step, while the graph is alive: can the gradient of `root` reach layers before a mostly silent
        rectifier without passing through it?"""
        if index != self.steps - 1 or root.grad_fn is None:
            return
        for call in calls[:MAX_CALLS]:
            known = self._units.get((call.module, call.call))
            if known is None:
                continue
            silent = (known[2] < self.steps - self.window) & ~call.fired
            if float(silent.float().mean()) > WORTH_TRACING:
                self._bypassed[(call.module, call.call)] = _bypassed(root.grad_fn, call.node)

    def finished(self, count: int) -> tuple[Rectifier, ...]:
        """One record for each call, in order of first appearance; `count` steps were completed."""
        found = []
        for key, (call, first, last, observed) in self._units.items():
            found.append(
                Rectifier(
                    module=call.module,
                    call=call.call,
                    kind=call.kind,
                    after=call.after,
                    units=first.numel(),
                    bypassed=self._bypassed.get(key),
                    observed=tuple(i for i in observed if i < count),
                    first_fired=tuple(first.tolist()),
                    last_fired=tuple(last.tolist()),
                )
            )
        return tuple(found)


def _bypassed(root: Any, node: Any) -> bool | None:
    """Whether some leaf upstream of `node` can be reached from `root` without passing `node`."""
    upstream = _leaves(node, None)
    if upstream is None:
        return None
    around = _leaves(root, node)
    return None if around is None else bool(upstream & around)


def _leaves(start: Any, without: Any) -> set[Any] | None:
    seen: set[Any] = {without}
    leaves: set[Any] = set()
    stack = [start]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if len(seen) > MAX_NODES:
            return None
        if hasattr(node, "variable"):
            leaves.add(node)
        stack.extend(parent for parent, _ in node.next_functions)
    return leaves
