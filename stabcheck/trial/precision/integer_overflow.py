"""Arithmetic on small integers whose result does not fit into them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from stabcheck.check import Skip, Source
from stabcheck.trial import batches
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import undisturbed
from stabcheck.userland import UserCodeError, is_users, passed_on

SMALL = {torch.uint8, torch.int8, torch.int16}
_WRAPPING = {
    *("sub", "__sub__", "rsub", "__rsub__", "subtract", "sub_", "__isub__", "neg", "__neg__", "negative"),
    *("mul", "__mul__", "__rmul__", "multiply", "mul_", "__imul__", "add", "__add__", "__radd__", "add_", "__iadd__"),
}


@dataclass(frozen=True)
class Wrap:
    """One operation that wrapped."""

    operation: str
    dtype: str
    share: float
    source: Source | None


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Wrap | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call through; compare with the same on wide integers."""
        name = getattr(func, "__name__", "")
        small = [a for a in args[:2] if isinstance(a, torch.Tensor) and a.dtype in SMALL]
        if self.found is not None or name not in _WRAPPING or not small:
            return passed_on(func, *args, **(kwargs or {}))
        wide = [a.to(torch.int64) if isinstance(a, torch.Tensor) and a.dtype in SMALL else a for a in args]
        out = passed_on(func, *args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype in SMALL and out.numel():
            try:
                wrong = float(
                    (out.to(torch.int64) != getattr(torch.Tensor, name)(*wide, **(kwargs or {}))).float().mean()
                )
            except (TypeError, AttributeError, RuntimeError):
                return out
            if wrong > 0:
                self.found = Wrap(name.strip("_"), str(out.dtype).removeprefix("torch."), wrong, _users_line())
        return out


def _users_line() -> Source | None:
    frame: Any = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def first_wrap(session: Session, seed: int) -> Wrap | None:
    """The first addition, subtraction or product of small integers that wrapped while a batch was fetched and its loss
    computed, the latter only for batches that hold such integers. Work in worker processes or in NumPy is not seen."""
    watch = _Watch()
    with kept_rng(seed):
        with watch:
            batch = session.first_batch()
        if watch.found is None and any(t.dtype in SMALL for t in batches.tensors(batch)):
            try:
                with undisturbed(session.model), torch.no_grad(), watch:
                    session.loss(batch)
            except (UserCodeError, Skip):  # known only inside the user's step
                pass
    return watch.found
