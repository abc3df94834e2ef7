"""Whether a parameter has any say in the loss: disturb it and look."""

from __future__ import annotations

import math
from typing import Any

import torch

from stabcheck.check import Skip
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import undisturbed
from stabcheck.userland import UserCodeError


def matters(session: Session, parameter: torch.Tensor, batch: Any, seed: int) -> bool | None:
    """Whether the loss on `batch` changes when `parameter` is moved by noise of its own size, all randomness held;
    None if the loss cannot be had or changes by itself. The loss is the set-up's, or else what its own step returns."""
    for loss in (_loss, _loss_of_step):
        with kept_rng():
            try:
                first, second = (loss(session, batch, seed) for _ in range(2))
                if first != second or not math.isfinite(first):
                    continue
                kept = parameter.detach().clone()
                with torch.no_grad():
                    size = parameter.float().square().mean().sqrt().clamp_min(1e-2)
                    parameter.add_(torch.randn_like(parameter) * size.to(parameter.dtype))
                try:
                    return loss(session, batch, seed) != first
                finally:
                    with torch.no_grad():
                        parameter.copy_(kept)
            except (UserCodeError, Skip):
                continue
    return None


def _loss(session: Session, batch: Any, seed: int) -> float:
    with kept_rng(seed), undisturbed(session.model):
        return float(session.loss(batch).detach())


def _loss_of_step(session: Session, batch: Any, seed: int) -> float:
    """What the step says of the weights it found; what it does to them is undone."""
    snapshot = session.snapshot()
    with kept_rng(seed):
        value = session.step(batch)
    session.restore(snapshot)
    return math.nan if value is None else value
