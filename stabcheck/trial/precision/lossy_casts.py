"""Conversions to a shorter float format that round away what the values differ by."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stabcheck.check import Skip, Source
from stabcheck.trial import batches
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, passed_on, users_line

_CASTS = {"half", "bfloat16", "float", "to", "type", "type_as"}

FEWEST = 8
"""Values from which their spread is known."""


@dataclass(frozen=True)
class Cast:
    """One conversion."""

    dtype: str
    share: float
    """RMS of the rounding errors over the standard deviation of the values."""
    grain: float
    """Distance of neighbouring numbers of that format at the size of the values."""
    mean: float
    spread: float
    source: Source | None


class _Watch(TorchFunctionMode):
    """Notes the worst conversion of values that differ at all; parameters are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.worst: Cast | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call through; compare what a conversion gave with what it was given."""
        out = passed_on(func, *args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _CASTS and args and isinstance(args[0], torch.Tensor):
            with torch._C.DisableTorchFunction():
                self._compare(args[0], out)
        return out

    def _compare(self, given: torch.Tensor, out: Any) -> None:
        if not isinstance(out, torch.Tensor) or isinstance(given, nn.Parameter) or given.numel() < FEWEST:
            return
        if not out.is_floating_point() or given.is_complex() or given.layout is not torch.strided or given.is_meta:
            return
        if (
            out.dtype is given.dtype
            or given.dtype is torch.bool
            or torch._C._functorch.is_functorch_wrapped_tensor(given)
        ):
            return
        values, held = given.detach().double(), out.detach().double()
        spread, error = float(values.std()), float((values - held).square().mean().sqrt())
        if not (spread > 0 and error > 0 and error < float("inf")):  # what overflows is seen elsewhere
            return
        if self.worst is None or error / spread > self.worst.share:
            size = float(values.abs().max())
            self.worst = Cast(
                dtype=str(out.dtype).removeprefix("torch."),
                share=error / spread,
                grain=torch.finfo(out.dtype).eps * 2.0 ** torch.tensor(size).log2().floor().item(),
                mean=float(values.mean()),
                spread=spread,
                source=users_line(sys._getframe(2)),
            )


def worst_cast(session: Session, seed: int) -> Cast | None:
    """The conversion that loses most of what the values differ by, while a batch was fetched and its loss computed. Work in
    worker processes, in NumPy or by autocast is not seen."""
    watch = _Watch()
    with kept_rng(seed):
        with watch:
            batch = session.first_batch()
        try:
            with undisturbed(session.model), torch.no_grad(), watch:
                session.loss(batches.clone(batch))
        except (UserCodeError, Skip):  # known only inside the user's step
            pass
    return watch.worst
