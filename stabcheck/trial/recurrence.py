"""How far back in time the gradient of a recurrent module reaches."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import nn

from stabcheck import stats
from stabcheck.recording import Recurrence
from stabcheck.trial import norms
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.probes import SignalReading
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

MAX_MODULES = 8
CALLS = 12
"""Calls of one layer in one forward from which on they are taken as a loop over time: a quarter at each is below rounding."""
NOTHING = -100.0
"""Stands for ln 0: the smallest float32 has -103."""


def recurrences(session: Session, kept: list[Any], seed: int) -> tuple[Recurrence, ...]:
    """For every nn.RNN, LSTM and GRU: ln |d(r·last state)/d(input at t)| for random r, with the weights as they are."""
    model = session.model
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, nn.RNNBase)}
    if not kinds or not kept:
        return ()
    with undisturbed(model), kept_rng():
        profiles = _profiles(session, kept[0], seed)
    return tuple(Recurrence(name, kinds[name], profile) for name, profile in profiles.items())


def by_hand(readings: dict[str, SignalReading]) -> tuple[Recurrence, ...]:
    """For every layer that one forward calls CALLS times or more, as a loop over time does: ln |dLoss/d(output of call t)|."""
    chosen = [r for r in readings.values() if r.calls >= CALLS and len(r.by_call) == r.calls]
    squares = norms.numbers([r.by_call[call] for r in chosen for call in range(r.calls)])
    found, at = [], 0
    for r in chosen[:MAX_MODULES]:
        profile = (stats.log(math.sqrt(value or 0.0)) for value in squares[at : at + r.calls])
        found.append(Recurrence(r.module, r.kind, tuple(max(value, NOTHING) for value in profile), by_hand=True))
        at += r.calls
    return tuple(found)


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
