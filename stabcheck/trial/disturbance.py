"""Whether a parameter has any say in the loss: disturb it and look."""

from __future__ import annotations

from typing import Any

import torch

from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import undisturbed
from stabcheck.userland import UserCodeError


def matters(session: Session, parameter: torch.Tensor, batch: Any, seed: int) -> bool | None:
    """Whether the loss on `batch` changes when `parameter` is moved by noise of its own size, all randomness held;
    None if the loss cannot be computed or changes by itself."""
    with undisturbed(session.model), kept_rng():
        try:
            first, second = (_loss(session, batch, seed) for _ in range(2))
            if first != second:
                return None
            with torch.no_grad():
                size = parameter.float().square().mean().sqrt().clamp_min(1e-2)
                parameter.add_(torch.randn_like(parameter) * size.to(parameter.dtype))
            return _loss(session, batch, seed) != first
        except UserCodeError:
            return None


def _loss(session: Session, batch: Any, seed: int) -> float:
    with kept_rng(seed), undisturbed(session.model):
        return float(session.loss(batch).detach())
