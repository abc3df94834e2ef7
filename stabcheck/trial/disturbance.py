"""Whether a parameter has any say in the loss: disturb it and look."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from stabcheck.check import Skip
from stabcheck.trial.modes import undisturbed, unseen_by_autograd
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError


def matters(
    session: Session, parameter: torch.Tensor, batch: Any, seed: int, optimizers: Sequence[torch.optim.Optimizer] = ()
) -> bool | None:
    """Whether the loss on `batch` changes when `parameter` is moved by noise of its own size, all randomness held;
    None if the loss cannot be had or changes by itself. The loss is the set-up's, or else what its own step returns; what that
    does to `optimizers` is undone."""
    for loss in (_loss, functools.partial(_loss_of_step, optimizers=optimizers)):
        with kept_rng():
            try:
                first, second = (loss(session, batch, seed) for _ in range(2))
                if first != second or not math.isfinite(first):
                    continue
                kept = parameter.detach().clone()
                with unseen_by_autograd([parameter]):
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


def _loss_of_step(session: Session, batch: Any, seed: int, optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """What the step says of the weights it found; what it does to them is undone."""
    snapshot = session.snapshot()
    states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
    with kept_rng(seed):
        value = session.step(batch)
    session.restore(snapshot)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    return math.nan if value is None else value
