"""How far back in time the gradient of a recurrent module reaches."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from stabcheck.recording import Recurrence
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

MAX_MODULES = 8


def recurrences(
    session: Session, kept: list[Any], initial: dict[str, torch.Tensor] | None, seed: int
) -> tuple[Recurrence, ...]:
    """For every nn.RNN, LSTM and GRU: ln |d(r·last state)/d(input at t)| for random r, with the initial weights and
    with those after the trial. `initial` is the first state_dict, None if the model has no such module."""
    if initial is None or not kept:
        return ()
    model = session.model
    with undisturbed(model), kept_rng():
        at_end = _profiles(session, kept[0], seed)
        model.load_state_dict(initial)
        at_start = _profiles(session, kept[0], seed)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return tuple(Recurrence(n, kinds[n], at_start[n], at_end[n]) for n in at_start if n in at_end)


def _profiles(session: Session, batch: Any, seed: int) -> dict[str, tuple[float, ...]]:
    found: dict[str, tuple[float, ...]] = {}

    def probe(name: str) -> Any:
        def read(module: nn.RNNBase, args: Any, kwargs: Any, output: Any) -> None:
            given = args[0] if args else kwargs.get("input")
            if name in found or not isinstance(given, torch.Tensor) or given.dim() != 3:
                return
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
                x = given.detach().clone().requires_grad_()
                # forward, not __call__: hooks must not see this.
                out = module.forward(x)[0]
                last = out[:, -1] if module.batch_first else out[-1]
                gradient = torch.autograd.grad((last * torch.randn_like(last)).sum(), x)[0]
            axes = (0, 2) if module.batch_first else (1, 2)
            found[name] = tuple(torch.linalg.vector_norm(gradient.double(), dim=axes).log().tolist())

        return read

    modules = [(n, m) for n, m in session.model.named_modules() if isinstance(m, nn.RNNBase)][:MAX_MODULES]
    hooks = (module.register_forward_hook(probe(name), with_kwargs=True) for name, module in modules)
    with attached(hooks), kept_rng(seed), contextlib.suppress(UserCodeError), torch.no_grad():
        session.loss(batch)
    return found
