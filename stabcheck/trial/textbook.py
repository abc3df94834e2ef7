"""What a set-up is taken to have where it gives none of its own: a training step, a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stabcheck.check import Skip
from stabcheck.userland import userland

if TYPE_CHECKING:
    from stabcheck.setup import TrainingSetup
    from stabcheck.trial.session import Session


class TextbookLoop:
    """Forward, backward, clip, step, zero_grad, scheduler; with gradient accumulation and loss scaling where they are
    asked for."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self.begin()

    def begin(self) -> None:
        """Start a new accumulation."""
        self._micro_step = 0

    def step(self, session: Session, batch: Any) -> float:
        """One call for one batch; returns its loss before the update.

        Raises:
            Skip: there is no optimizer.
            UserCodeError: the model, the loss, the optimizer or the scheduler raised.
        """
        setup, optimizer, scaler = session.setup, session.setup.optimizer, self.scaler
        if optimizer is None:
            raise Skip("no optimizer given: add 'optimizer' or 'train_step' to the set-up")
        if not session.model.training:  # parts that the user put into eval mode stay there
            session.model.train()
        loss = session.loss(batch)
        value = float(loss.detach())
        scaled = loss / setup.accumulate_steps
        with userland("backward"):
            (scaler.scale(scaled) if scaler else scaled).backward()
        self._micro_step += 1
        if self._micro_step % setup.accumulate_steps:
            return value
        if setup.clip_grad_norm is not None:
            if scaler:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(session.model.parameters(), setup.clip_grad_norm)
        with userland("optimizer.step"):
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            elif isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(lambda: self._again(session, batch))
            else:
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if setup.scheduler is not None and session.interval == "step":
            session.step_scheduler(value)
        return value

    def _again(self, session: Session, batch: Any) -> torch.Tensor:
        """What LBFGS evaluates, several times in a step."""
        session.model.zero_grad(set_to_none=True)
        loss = session.loss(batch)
        torch.autograd.backward(loss)
        return loss


def save(setup: TrainingSetup, path: Path) -> None:
    """Write the state dicts of model, optimizer and scheduler.

    Raises:
        UserCodeError: a state dict could not be had or written.
    """
    parts = {key: getattr(setup, key) for key in ("model", "optimizer", "scheduler")}
    with userland("state_dict()"):
        torch.save({key: part.state_dict() for key, part in parts.items() if part is not None}, path)


def load(setup: TrainingSetup, path: Path) -> None:
    """Read what `save` wrote.

    Raises:
        UserCodeError: a part did not take its state.
    """
    # The file is our own, written a moment ago.
    for key, state in torch.load(path, weights_only=False).items():
        with userland(f"{key}.load_state_dict"):
            getattr(setup, key).load_state_dict(state)
