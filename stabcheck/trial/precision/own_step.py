"""What underflows in the gradient that the user's own step computes, which may weight or divide its loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.trial.bench import Bench
from stabcheck.trial.loop_spy import replaced
from stabcheck.trial.norms import dense
from stabcheck.trial.precision.gradients import no_autocast
from stabcheck.trial.rng import kept_rng
from stabcheck.userland import passed_on


@dataclass(frozen=True)
class Underflow:
    """The first gradient of the step, as it is and with autocast off."""

    flushed: float
    """Share of the elements that are exactly zero only in low precision."""
    lost: float
    """Share of the sum of absolute values that these elements hold."""
    cosine: float
    """Of the two gradients; 0 if nothing is left of the low one."""


def underflow(bench: Bench) -> Underflow | None:
    """The two gradients of the first backward pass, of equal set-ups for the same batch; None if there is none to compare.

    Raises:
        UserCodeError: the loader or the step raised.
        Skip: the set-up cannot be built again in time.
    """
    low = _first_gradient(bench, contextlib.nullcontext())
    full = _first_gradient(bench, no_autocast())
    if low is None or full is None or len(low) != len(full) or not bool(torch.isfinite(full).all()):
        return None
    total, there = float(full.abs().sum()), int((full != 0).sum())
    if not total:
        return None
    gone = (low == 0) & (full != 0)
    size = float(low.norm() * full.norm())
    return Underflow(
        flushed=int(gone.sum()) / there,
        lost=float(full[gone].abs().sum()) / total,
        cosine=float((low * full).sum()) / size if size else 0.0,
    )


def _first_gradient(bench: Bench, precision: contextlib.AbstractContextManager[Any]) -> torch.Tensor | None:
    """All gradients of the model, one after the other, as the first backward pass of a fresh set-up leaves them."""
    session = bench.session()
    session.model.zero_grad(set_to_none=True)
    found: list[torch.Tensor] = []
    with kept_rng(bench.seed), _after_backward(lambda: found.append(_flat(session.model)) if not found else None):
        batch = session.first_batch()
        with precision:
            session.step(batch)
    return found[0] if found else None


def _flat(model: torch.nn.Module) -> torch.Tensor:
    rows = [
        (dense(p.grad).detach().double() if p.grad is not None else torch.zeros(p.shape).double()).reshape(-1).cpu()
        for p in model.parameters()
        if p.requires_grad
    ]
    return torch.cat(rows) if rows else torch.zeros(0)


@contextlib.contextmanager
def _after_backward(hook: Callable[[], None]) -> Iterator[None]:
    def backward(original: Any, *args: Any, **kwargs: Any) -> Any:
        result = passed_on(original, *args, **kwargs)
        hook()
        return result

    with replaced(torch.autograd, "backward", backward):
        yield
