"""Parameters that the set-up's own loss reaches, and that the step runs but never calls backward() on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from stabcheck.check import Skip
from stabcheck.recording import Recording
from stabcheck.trial import batches
from stabcheck.trial.hooks import attached
from stabcheck.trial.loop.trace import LoopTrace
from stabcheck.trial.modes import held_by, undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError


@dataclass(frozen=True)
class LeftOut:
    """A part of the loss that the step leaves out."""

    parameters: tuple[str, ...]
    loss: float
    """The set-up's own loss of one batch."""
    root: float
    """What the step called backward() on, for the same batch."""


def left_out(session: Session, trace: LoopTrace, batch: Any, seed: int, recording: Recording | None) -> LeftOut | None:
    """One more call, on a batch for which it is known what the loss reaches; None if the step reaches all of that, or did in
    the trial. Parameters that no optimizer holds are another matter.

    Raises:
        UserCodeError: the step raised.
    """
    setup = session.setup
    if setup.train_step is None or (setup.loss_fn is None and setup.compute_loss is None):
        return None
    if not all(call.backwards and not call.attacked for call in trace.calls):
        return None
    once = {p.name for p in recording.parameters if any(v is not None for v in p.grad_norm)} if recording else set()
    held = held_by(*trace.optimizers)
    named = [(name, p) for name, p in session.model.named_parameters() if p.requires_grad and id(p) in held]
    missing = [name for name, p in named if name not in trace.touched | once and p.grad is None]
    if not missing or len(missing) == len(named):
        return None
    try:
        with undisturbed(session.model), kept_rng(seed), torch.enable_grad():
            loss = session.loss(batches.clone(batch))
            gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    except (UserCodeError, Skip, RuntimeError):
        return None
    pulled = {name for (name, _), g in zip(named, gradients, strict=True) if g is not None and bool(g.any())}
    if not pulled & trace.reached():
        return None  # the step trains something else altogether
    ran: set[str] = set()
    trace.begin(batches.size(batch))
    with attached(_noting(session.model, ran)), kept_rng(seed):
        trace.end(session.step(batches.clone(batch)))
    # What the step does not even run is replaced on purpose, as the head of an inner loop.
    wanted = [name for name in missing if name in pulled and name.rpartition(".")[0] in ran]
    found = tuple(name for name in wanted if name not in trace.touched)
    roots = trace.calls[-1].backwards
    return LeftOut(found, float(loss.detach()), roots[-1]) if found and roots else None


def _noting(model: nn.Module, ran: set[str]) -> Iterator[RemovableHandle]:
    """Hooks that note the paths of the modules that run with gradients on."""

    def noting(path: str) -> Any:
        def note(module: nn.Module, args: Any) -> None:
            if torch.is_grad_enabled():
                ran.add(path)

        return note

    return (module.register_forward_pre_hook(noting(path)) for path, module in model.named_modules())
