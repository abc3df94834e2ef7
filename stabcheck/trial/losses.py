"""Where the loss is in what users' functions return, and what a batch means to a loss_fn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stabcheck.userland import UserCodeError

IGNORE_INDEX = -100
"""The target that PyTorch's losses over classes leave out by default."""


def split(batch: Any) -> tuple[Any, Any]:
    """A batch of a set-up with a loss_fn as (inputs, targets).

    Raises:
        UserCodeError: the batch is no pair.
    """
    if isinstance(batch, (list, tuple)) and len(batch) == 2:
        return batch[0], batch[1]
    size = f" of {len(batch)}" if hasattr(batch, "__len__") else ""
    raise UserCodeError(
        "train_loader",
        f"with 'loss_fn' a batch must be (inputs, targets), but it is a {type(batch).__name__}{size}: "
        "give 'compute_loss(model, batch)' instead of 'loss_fn'",
    )


def loss_from(outputs: Any) -> Any:
    """The loss inside what a model returned (`.loss` or ["loss"], as Hugging Face models do).

    Raises:
        UserCodeError: there is none.
    """
    value = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if value is None and isinstance(outputs, torch.Tensor) and outputs.dim() == 0:
        value = outputs
    if value is None:
        raise UserCodeError(
            "model", "no loss: the model returns none, so add 'loss_fn' or 'compute_loss' to the set-up"
        )
    return value


def scalar(value: Any, stage: str) -> torch.Tensor:
    """`value` as a tensor without axes.

    Raises:
        UserCodeError: it is no tensor, or has more than one element.
    """
    if not isinstance(value, torch.Tensor):
        raise UserCodeError(
            stage,
            f"it returned a {type(value).__name__}, not a scalar tensor: return the loss itself, without .item()",
        )
    if value.numel() != 1:
        raise UserCodeError(
            stage,
            f"it returned a tensor of shape {tuple(value.shape)}, not a scalar: reduce it, with .mean() for example",
        )
    return value.reshape(())


def loss_value(value: Any) -> float | None:
    """The loss in what a train_step returned: a number, a scalar tensor, or a dict or tuple with one; None if none."""
    if isinstance(value, Mapping):
        value = value.get("loss")
    elif isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, torch.Tensor):
        return float(value.detach()) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
