"""When two outputs of the same call differ."""

from __future__ import annotations

import torch

ROUNDING = 1e-5
"""Change of an output, as a share of its root mean square, that is none. With equal shapes the same kernels run, so what does
not depend on a sample is equal to the last bit; the bound is for kernels that share out their work by content."""
NAN = 0.12345
"""What stands for NaN in comparisons."""
Outputs = dict[str, torch.Tensor]
"""Floating outputs by name, detached."""


def scale(tensor: torch.Tensor) -> float:
    """Root mean square of the finite elements."""
    return float(torch.nan_to_num(tensor.float(), posinf=0.0, neginf=0.0).square().mean().sqrt())


def is_changed(base: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Which elements differ by more than rounding; NaN is equal to NaN."""
    a, b = (torch.nan_to_num(t.float(), nan=NAN) for t in (base, other))
    return ~((a - b).abs() <= ROUNDING * max(scale(base), 1e-30)) & (a != b)


def equal(one: Outputs, two: Outputs) -> bool:
    """Whether all outputs are the same to the last bit."""
    return one.keys() == two.keys() and all(
        one[k].shape == two[k].shape and torch.equal(*(torch.nan_to_num(t, nan=NAN) for t in (one[k], two[k])))
        for k in one
    )
