"""How far back in time the gradient of a recurrent module reaches."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import nn

from stabcheck import stats
from stabcheck.check import Skip
from stabcheck.recording import Recurrence
from stabcheck.trial import norms
from stabcheck.trial.affine.tape import LAYERS
from stabcheck.trial.batches import tensors
from stabcheck.trial.call_watch import CallWatch, watch_loss
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
    """For every nn.RNN, LSTM and GRU: ln |d(r·states)/d(input at t)| for random r, with the weights as they are. The states
    are those of the time steps that the loss looks at: the last one, or all where there is a target at each."""
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


class _Products(CallWatch):
    """Every product with a parameter that no layer of PyTorch's holds, by parameter."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.own = own_matrices(model)
        self.found: dict[str, list[torch.Tensor]] = {}

    def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Keep what came of it."""
        if name in LAYERS and isinstance(out, torch.Tensor) and out.requires_grad:
            factors = (self.own.get(id(t if t._base is None else t._base)) for t in tensors((args, kwargs)))
            if (parameter := next((p for p in factors if p), None)) is not None:
                self.found.setdefault(parameter, []).append(out)


def own_matrices(model: nn.Module) -> dict[int, str]:
    """id -> path of the matrices that modules of the user's hold by themselves."""
    return {
        id(parameter): f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn.")
        for key, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 2 and parameter.requires_grad
    }


def by_parameter(session: Session, kept: list[Any], seed: int) -> tuple[Recurrence, ...]:
    """The same as `by_hand` for a bare parameter that one forward multiplies with so many times, with the weights as they are."""
    if not kept or not own_matrices(session.model):
        return ()
    watch = _Products(session.model)
    try:
        loss = watch_loss(session, kept[0], seed, watch)
    except (UserCodeError, Skip):
        return ()
    found = []
    # Those that lead from state to state are square.
    shapes = {name: parameter.shape for name, parameter in session.model.named_parameters()}
    for name, products in sorted(watch.found.items(), key=lambda item: len(set(shapes[item[0]]))):
        if len(products) >= CALLS and loss.requires_grad:
            gradients = torch.autograd.grad(loss, products, retain_graph=True, allow_unused=True)
            values = norms.numbers([None if g is None else norms.norm(g) for g in gradients])
            profile = (max(stats.log(value or 0.0), NOTHING) for value in values)
            found.append(Recurrence(name, "Parameter", tuple(profile), by_hand=True))
    return tuple(found[:MAX_MODULES])


def _profiles(session: Session, batch: Any, seed: int) -> dict[str, tuple[float, ...]]:
    calls: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def probe(name: str) -> Any:
        def read(module: nn.RNNBase, args: Any, kwargs: Any, output: Any) -> None:
            given = args[0] if args else kwargs.get("input")
            if name not in calls and isinstance(given, torch.Tensor) and given.dim() == 3:
                calls[name] = given.detach().clone(), output[0]

        return read

    modules = dict([(n, m) for n, m in session.model.named_modules() if isinstance(m, nn.RNNBase)][:MAX_MODULES])
    hooks = (module.register_forward_hook(probe(name), with_kwargs=True) for name, module in modules.items())
    loss = None
    with attached(hooks), kept_rng(seed), contextlib.suppress(UserCodeError), torch.enable_grad():
        loss = session.loss(batch)
    return {name: _profile(modules[name], x, _looked_at(loss, out)) for name, (x, out) in calls.items()}


def _looked_at(loss: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor | None:
    """Where the loss depends on the sequence of states, as a mask of its shape without features; None if nowhere, as when
    only the final state is used."""
    if loss is None or not loss.requires_grad or not out.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(loss, out, retain_graph=True, allow_unused=True)
    mask = (gradient != 0).any(-1) if gradient is not None else None
    return mask if mask is not None and bool(mask.any()) else None


def _profile(module: nn.RNNBase, x: torch.Tensor, mask: torch.Tensor | None) -> tuple[float, ...]:
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        x = x.requires_grad_()
        # forward, not __call__: hooks must not see this.
        out = module.forward(x)[0]
        last = out[:, -1] if module.batch_first else out[-1]
        looked_at = last if mask is None else out[mask.to(out.device)]
        gradient = torch.autograd.grad((looked_at * torch.randn_like(looked_at)).sum(), x)[0]
    axes = (0, 2) if module.batch_first else (1, 2)
    return tuple(torch.linalg.vector_norm(gradient.double(), dim=axes).log().tolist())
