"""What a model's last operation lets it say at all."""

from __future__ import annotations

import math
from typing import Any

import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.calls import watched_call
from stabcheck.trial.loss_contract.origins import origin
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

BOUNDS = {
    **dict.fromkeys(("Tanh", "Sin", "Cos"), (-1.0, 1.0)),
    **dict.fromkeys(("Sigmoid", "Softmax", "Hardsigmoid"), (0.0, 1.0)),
    **dict.fromkeys(("Relu", "Exp", "Softplus"), (0.0, math.inf)),
    **dict.fromkeys(("LogSoftmax", "LogSigmoid"), (-math.inf, 0.0)),
}
"""Operation that made an output -> the least and the most that it can give."""


def reach(session: Session, batch: Any, seed: int) -> tuple[float, float]:
    """The least and the most that the model can return, for all that its last operation tells."""
    with undisturbed(session.model):
        try:
            output = watched_call(session, batches.clone(batch), seed).output
        except (UserCodeError, Skip):
            return -math.inf, math.inf
    if not isinstance(output, torch.Tensor):
        return -math.inf, math.inf
    return BOUNDS.get(origin(output)[0], (-math.inf, math.inf))
