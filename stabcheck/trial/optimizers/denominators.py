"""How the eps of an adaptive optimizer compares with the gradients that it divides by."""

from __future__ import annotations

import math
from typing import Any

import torch

from stabcheck.trial.norms import dense

MOST = 4096
"""Coordinates of one tensor that are looked at: a share is known to 1.6 % by so many."""
_SQUARES = ("exp_avg_sq", "square_avg", "sum")
"""Where Adam and its kin, RMSprop and Adadelta, and Adagrad keep the mean (the sum) of squared gradients."""


def below_eps(optimizer: Any) -> tuple[float, float] | None:
    """(share of coordinates whose root mean square gradient is below eps, median of these roots), over all coordinates
    that ever had a gradient; None if the optimizer keeps no such state. Each tensor counts by its size."""
    roots: list[torch.Tensor] = []
    weights: list[torch.Tensor] = []
    below: list[torch.Tensor] = []
    for group in optimizer.param_groups:
        eps = group.get("eps")
        if not isinstance(eps, (int, float)):
            continue
        for parameter in group["params"]:
            root = _roots(optimizer.state.get(parameter, {}), group)
            if root is None or not root.numel():
                continue
            roots.append(root)
            below.append(root < eps)
            weights.append(torch.full_like(root, parameter.numel() / root.numel()))
    if not roots:
        return None
    root, weight, under = (torch.cat([t.cpu() for t in part]) for part in (roots, weights, below))
    order = root.argsort()
    half = int(torch.searchsorted(weight[order].cumsum(0), weight.sum() / 2))
    median = float(root[order[min(half, len(order) - 1)]])
    return (float(weight[under].sum() / weight.sum()), median) if math.isfinite(median) else None


def _roots(state: Any, group: dict[str, Any]) -> torch.Tensor | None:
    """Roots of the (bias-corrected) mean squares of one tensor, without those that are zero."""
    squares = next((state[key] for key in _SQUARES if isinstance(state.get(key), torch.Tensor)), None)
    if squares is None:
        return None
    squares = dense(squares).reshape(-1)
    squares = squares[:: max(1, len(squares) // MOST)].float()
    if "exp_avg_sq" in state and len(group.get("betas", ())) == 2:
        steps = float(state.get("step", 0.0))
        squares = squares / max(1.0 - float(group["betas"][1]) ** steps, 1e-12)
    return squares[squares > 0].sqrt()
