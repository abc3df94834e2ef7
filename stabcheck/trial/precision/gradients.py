"""The same batch at the same weights in the set-up's precision and in float32."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.trial import batches
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.norms import dense
from stabcheck.trial.overfit.dropout import dropout_off
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import userland

HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class GradientPair:
    """The gradients of one loss, in low precision and in float32."""

    cosine: float
    """Of the two gradients, all parameters together; NaN if one of them is not finite or zero."""
    ratio: float
    """Norm of the low one over the other's."""
    flushed: float
    """Share of the elements that are exactly zero only in low precision."""
    low_finite: bool
    full_finite: bool
    random: bool
    """The gradient depends on the seed even without dropout, and the two precisions may draw other numbers."""
    worst: str
    """The parameter whose gradients differ most, of those with a tenth of the largest norm at least."""
    overflow: str | None
    """The first module whose output is not finite in low precision."""


def gradient_pair(session: Session, batch: Any, seed: int, *, autocast: str | None, scale: float) -> GradientPair:
    """Both gradients for `batch`, with dropout off; nothing of the session is changed. `autocast` is the dtype of the
    regions that only the user's own step opens, `scale` what a GradScaler multiplies the loss with.

    Raises:
        UserCodeError: the model or the loss raised.
    """
    model = session.model
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    with undisturbed(model), dropout_off(model), torch.enable_grad():
        model.train()
        with _first_overflow(model) as bad:
            low = _gradients(session, batch, seed, _own(session, autocast), scale)
        with _in_float32(model):
            single = _as_float32(batch)
            full = _gradients(session, single, seed, no_autocast(), 1.0)
            again = _gradients(session, single, seed + 1, no_autocast(), 1.0)
    low_finite, full_finite = (all(bool(torch.isfinite(g).all()) for g in side) for side in (low, full))
    a, b = (torch.cat([g.reshape(-1) for g in side]) if side else torch.zeros(1) for side in (low, full))
    largest = max((float(g.norm()) for g in full), default=0.0)
    judged = [
        (_cosine(x, y), name)
        for x, y, name in zip(low, full, names, strict=True)
        if float(y.norm()) >= 0.1 * largest > 0
    ]
    return GradientPair(
        cosine=_cosine(a, b),
        ratio=float(a.norm() / b.norm()) if float(b.norm()) > 0 else math.nan,
        flushed=float(((a == 0) & (b != 0)).sum() / max(int((b != 0).sum()), 1)),
        low_finite=low_finite,
        full_finite=full_finite,
        random=any(not torch.equal(x, y) for x, y in zip(full, again, strict=True)),
        worst=min(judged, default=(1.0, ""))[1],
        overflow=bad[0] if bad else None,
    )


def _gradients(
    session: Session, batch: Any, seed: int, precision: contextlib.AbstractContextManager[Any], scale: float
) -> list[torch.Tensor]:
    parameters = [p for p in session.model.parameters() if p.requires_grad]
    with kept_rng(seed):
        with precision:
            loss = session.loss(batch)
        with userland("backward"):
            found = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
    return [
        dense(g).double() / scale if g is not None and g.layout == torch.strided else torch.zeros(p.shape).double()
        for g, p in zip(found, parameters, strict=True)
    ]


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    size = float(a.norm() * b.norm())
    return float((a * b).sum() / size) if math.isfinite(size) and size > 0 else math.nan


def _own(session: Session, autocast: str | None) -> contextlib.AbstractContextManager[Any]:
    if autocast is None:
        return contextlib.nullcontext()
    return torch.autocast(session.device.type, dtype=HALF[autocast])


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """Regions of autocast are entered disabled, whoever opens them."""
    original: Any = torch.autocast.__enter__

    def enter(self: Any) -> Any:
        enabled, self._enabled = self._enabled, False
        try:
            return original(self)
        finally:
            self._enabled = enabled

    torch.autocast.__enter__ = enter  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = original  # type: ignore[method-assign]


@contextlib.contextmanager
def _in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Parameters and buffers in half precision are float32 inside; their values are the same."""
    halves = [t for t in [*model.parameters(), *model.buffers()] if t.dtype in HALF.values()]
    kept = [t.data for t in halves]
    for tensor in halves:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, value in zip(halves, kept, strict=True):
            tensor.data = value


def _as_float32(batch: Any) -> Any:
    return batches.map_tensors(batch, lambda t: t.float() if t.dtype in HALF.values() else t)


@contextlib.contextmanager
def _first_overflow(model: torch.nn.Module) -> Iterator[list[str]]:
    """Names of the modules whose first output is not finite though their inputs are, in order of execution."""
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def look(module: Any, args: Any, output: Any) -> None:
        if batches.all_finite(args) and not batches.all_finite(output) and not any(True for _ in module.children()):
            found.append(names[module])

    with attached(module.register_forward_hook(look) for module in names):
        yield found
