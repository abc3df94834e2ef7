"""Terms that compare a tensor with itself: both sides are equal and carry the same gradient, so that nothing is left of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stabcheck.check import Source

COMPARED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
"""Losses that are least where both arguments are the same."""
DIFFERENCES = ("sub", "__sub__", "rsub", "__rsub__", "div", "__truediv__", "true_divide", "kl_div", *COMPARED)
"""Functions of two tensors that are constant where both are the same."""
NOTHING = 1e-5
"""Difference between two gradients, relative to the larger, that is rounding."""


@dataclass(frozen=True)
class Twin:
    """A function that was given the same values twice."""

    name: str
    sides: tuple[torch.Tensor, torch.Tensor]
    result: torch.Tensor
    place: Source | None


def are_twins(name: str, a: object, b: object) -> bool:
    """Whether two arguments are equal element by element, more than one of them, and both carry a gradient, or one of them is
    the other's own storage, detached."""
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)) or a.shape != b.shape or a.numel() < 2:
        return False
    if not a.is_floating_point() or a.layout != torch.strided or b.layout != torch.strided or a.dtype != b.dtype:
        return False
    if not (a.requires_grad or b.requires_grad):
        return False
    if not (a.requires_grad and b.requires_grad):
        # x - x.detach() lets the gradient through, as estimators of it want.
        return name in COMPARED and a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return bool(torch.equal(a, b)) and bool((a != a.flatten()[0]).any())


def cancels(twin: Twin, parameters: Sequence[torch.Tensor]) -> bool:
    """Whether every weight moves both sides alike, and some weight moves them. Networks that are equal at first do not: each has
    weights of its own."""
    wanted = [p for p in parameters if p.requires_grad]
    one, other = twin.sides
    if one is other or not (one.requires_grad and other.requires_grad):
        return one.requires_grad or other.requires_grad
    weights = torch.randn(one.shape, generator=torch.Generator().manual_seed(0)).to(one)
    try:
        pulls = [
            list(torch.autograd.grad(side, wanted, weights, retain_graph=True, allow_unused=True))
            for side in (one, other)
        ]
    except RuntimeError:  # a part of the graph that cannot be differentiated alone
        return False
    pulls = [[g.to_dense() if g is not None and g.is_sparse else g for g in pull] for pull in pulls]
    size = max((float(g.abs().max()) for g in pulls[0] if g is not None and g.numel()), default=0.0)
    return size > 0 and all(_alike(a, b, NOTHING * size) for a, b in zip(*pulls, strict=True))


def _alike(a: torch.Tensor | None, b: torch.Tensor | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return a.numel() == 0 or float((a - b).abs().max()) <= tolerance
