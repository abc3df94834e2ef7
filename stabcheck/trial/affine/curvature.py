"""Losses that differentiate twice by the inputs, and networks whose second derivative is exactly zero."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from stabcheck.trial import batches
from stabcheck.trial.autograd_graph import nodes_behind
from stabcheck.trial.call_watch import CallWatch
from stabcheck.trial.hooks import attached
from stabcheck.trial.probes import own_parameters

_BENT = {
    "relu", "relu6", "leaky_relu", "hardtanh", "prelu", "rrelu", "threshold", "clamp", "clamp_min", "hardshrink", "softshrink",
    "abs", "maximum", "where",
}  # fmt: skip


@dataclass(frozen=True)
class Straight:
    """A network that is made of straight pieces, where its curvature is asked for."""

    module: str
    activation: str
    """The first function in it that bends only at single points."""
    points: int
    """Places of the batch at which its second derivative was computed, and zero."""


class CurvatureWatch(CallWatch):
    """Waits for a gradient of a gradient by the inputs, and then asks each network behind it for its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.found: Straight | None = None
        self._first: list[torch.Tensor] = []
        self._asked: list[torch.Tensor] = []
        self._calls: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        self._bends: dict[str, str] = {}

    @contextlib.contextmanager
    def inserted(self) -> Iterator[Self]:
        """Watch what is called inside, and what goes in and out of every module that holds two layers or more."""

        def noting(name: str) -> Any:
            def note(module: nn.Module, args: Any, output: Any) -> None:
                given = [t for t in batches.tensors(args) if t.is_floating_point() and t.requires_grad]
                gives = [t for t in batches.tensors(output) if t.is_floating_point() and t.grad_fn is not None]
                if given and len(gives) == 1:
                    self._calls.append((name, given[0], gives[0]))

            return note

        holders = [
            (name, module)
            for name, module in self.model.named_modules()
            if sum(bool(own_parameters(m)) for m in module.modules()) > 1
        ]
        with attached(module.register_forward_hook(noting(name)) for name, module in holders), super().inserted():
            yield self

    def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Note first derivatives; at a second one, look."""
        kind = name.rstrip("_")
        if kind in _BENT:
            self._bends.setdefault(self.module, kind)
        if name != "grad" or self.found is not None or not isinstance(out, tuple):
            return
        outputs, inputs = args[0], args[1] if len(args) > 1 else kwargs.get("inputs")
        by = [t for t in batches.tensors((inputs,)) if not isinstance(t, nn.Parameter)]
        known = {t.grad_fn for t in self._first}
        roots = [t for t in batches.tensors((outputs,)) if t.grad_fn is not None]
        if by and known and any(node in known for root in roots for node in nodes_behind(root)):
            self.found = next((s for call in self._outermost() for x in by if (s := self._straight(*call, x))), None)
        if by:
            self._first += [t for t in batches.tensors(out) if t.grad_fn is not None]
            self._asked += [t for t in batches.tensors((outputs,)) if t.grad_fn is not None]

    def _outermost(self) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        return sorted(self._calls, key=lambda call: call[0].count(".") + bool(call[0]))

    def _straight(self, name: str, given: torch.Tensor, gives: torch.Tensor, x: torch.Tensor) -> Straight | None:
        """Whether the module's output has a slope by `x` that differs from place to place, and everywhere no curvature."""
        # A part that bends smoothly in front of it gives the whole a curvature.
        if given is not x and not _is_constant(_gradient(given, x), x):
            return None
        # A loss of the output is curved by itself.
        if not any(_is_constant(_gradient(asked, gives), gives) for asked in self._asked):
            return None
        slope = _gradient(gives, x)
        if slope is None or not bool(slope.detach().any()) or not _is_constant(slope, x):
            return None
        rows = slope.detach().reshape(len(slope), -1) if slope.dim() else slope.detach()[None, None]
        # One slope at all places is a linear network, which is another finding.
        if len(rows) < 2 or bool((rows - rows[:1]).abs().max() <= 1e-6 * rows.abs().max()):
            return None
        inside = (
            kind for place, kind in self._bends.items() if place == name or place.startswith(f"{name}." if name else "")
        )
        return Straight(name, next(inside, "piecewise linear functions"), len(rows))


def _gradient(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """Of a random mixture of `y`, so that no two parts of it cancel."""
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(y.shape, generator=generator).to(y)
    return torch.autograd.grad((y * mixture).sum(), x, create_graph=True, allow_unused=True)[0]


def _is_constant(slope: torch.Tensor | None, x: torch.Tensor) -> bool:
    """Whether the derivative of `slope` by `x` is zero everywhere, to the last bit."""
    if slope is None:
        return False
    if not slope.requires_grad:
        return True
    curvature = _gradient(slope, x)
    return curvature is None or not bool(curvature.detach().any())
