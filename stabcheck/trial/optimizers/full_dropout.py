"""Dropout that lets nothing through."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stabcheck.check import Skip
from stabcheck.trial.modes import kept_modes
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import undisturbed
from stabcheck.userland import UserCodeError


def silencing_dropouts(session: Session, seed: int) -> list[tuple[str, float]]:
    """(path, p) of the dropout modules that turn an input with values into zeros in a training step. Costs nothing where
    no module drops everything."""
    suspects = {
        module: name
        for name, module in session.model.named_modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p >= 1
    }
    found: dict[str, float] = {}

    def look(module: Any, args: Any, output: Any) -> None:
        both = (*args[:1], output)
        if not module.training or not all(isinstance(t, torch.Tensor) for t in both):
            return
        if both[0].detach().any() and not output.detach().any():
            found[suspects[module]] = float(module.p)

    if not suspects:
        return []
    handles = [module.register_forward_hook(look) for module in suspects]
    try:
        with undisturbed(session.model), kept_modes(session.model), kept_rng(seed):
            session.model.train()
            session.loss(session.first_batch())
    except (UserCodeError, Skip):  # the loss is known only inside the step: its mode says enough
        return [(name, float(module.p)) for module, name in suspects.items() if module.training]
    finally:
        for handle in handles:
            handle.remove()
    return list(found.items())
