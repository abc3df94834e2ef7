"""Whether a function that stands where an activation should bends at all, tried out on numbers of its own."""

from __future__ import annotations

from typing import Any

import torch

from stabcheck.trial import batches
from stabcheck.userland import passed_on

REACH = 10.0
"""Times the larger of one and the scale of what it got, at which it is tried. Within it every activation bends, however small
its inputs are at the start; a limit that lies further out is none."""
EXACT = 1e-5
"""Largest deviation from a straight line, as a share of the outputs, that is rounding: single precision has 1e-7 for one call."""
MAX_NUMBERS = 4096
"""Numbers that it is tried on, where the shape is free: it is asked for what it does, not how long that takes."""


def is_straight(func: Any, args: Any, kwargs: Any, out: Any) -> bool:
    """Whether `func`, which gave `out`, is an affine function of its first argument, with no weight to be learnt in it: halfway
    between two inputs it gives what lies halfway between its outputs."""
    given = args[0] if args else None
    if not isinstance(given, torch.Tensor) or not isinstance(out, torch.Tensor) or "out" in kwargs:
        return False
    others = list(batches.tensors((args[1:], kwargs)))
    if out.shape != given.shape or not out.is_floating_point() or any(t.requires_grad for t in others):
        return False
    if out.requires_grad != given.requires_grad or not out.numel():
        return False
    shape = given.shape if others or given.numel() <= MAX_NUMBERS else given.shape[:1] + (1,) * (given.dim() - 1)
    scale = REACH * max(1.0, float(out.detach().float().std(correction=0).nan_to_num(1.0)))
    generator = torch.Generator().manual_seed(0)
    a, b = (scale * torch.randn(shape, generator=generator).to(given.device) for _ in range(2))
    with torch.no_grad():
        try:
            values = [passed_on(func, x, *args[1:], **kwargs).float() for x in (a.clone(), b.clone(), (a + b) / 2)]
        except Exception:
            return False
    if any(value.shape != a.shape for value in values):
        return False
    at_a, at_b, middle = values
    size = float((at_a - at_b).norm())
    return size > 0 and float((middle - (at_a + at_b) / 2).norm()) <= EXACT * size
