"""Graphs that the forward itself cuts: a tensor that training must learn through is detached on its way to the loss.

Detaching is right as often as wrong. Targets are detached before the loss, and straight-through estimators leave the gradient
another way. What is suspicious is a trained layer all of whose input is cut off from what came before it. Then the question is
put to the set-up: can it fit one batch as it is, and can it once nothing is detached?
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stabcheck.check import Skip, Source
from stabcheck.trial.batches import tensors
from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import attached, running
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.overfit.attempts import Attempts
from stabcheck.trial.overfit.levels import LossUnknown, choose
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, passed_on, users_line

BETTER = 0.1
"""Share of the way by which a fit without the cut must come further than one with it."""


@dataclass(frozen=True)
class Severed:
    """What shows that a cut keeps the set-up from learning."""

    module: str
    """The innermost module in whose forward the cut is; "" for the model, or for the loss."""
    how: str
    source: Source | None
    stays: float
    """The lowest loss on one batch with the cut."""
    falls: float
    """The same without any."""
    left: float
    left_without: float
    """Shares of the way from the best constant guess to the floor that are left at these."""


@dataclass(frozen=True)
class _Cut:
    module: str
    how: str
    source: Source | None


class _Cuts(TorchFunctionMode):
    """Follows what is made of tensors with a history that were detached; `mend` gives the tensor itself instead."""

    def __init__(self, where: Callable[[], str], *, mend: bool) -> None:
        super().__init__()
        self._where, self._mend = where, mend
        self._made: dict[int, tuple[torch.Tensor, _Cut]] = {}
        self.suspicious: list[_Cut] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call through, or do not cut."""
        how = _how(func)
        given = args[0] if args else None
        cuts = how is not None and isinstance(given, torch.Tensor) and given.grad_fn is not None
        if cuts and self._mend:
            return given
        out = passed_on(func, *args, **(kwargs or {}))
        if self._mend:
            return out
        origin = _Cut(self._where(), how or "", users_line(sys._getframe())) if cuts else None
        for tensor in tensors([*args, *(kwargs or {}).values()]):
            origin = origin or self._origin(tensor)
        for made in tensors(out):
            if origin and made.is_floating_point() and not made.requires_grad and made.dim():
                self._made[id(made)] = made, origin
        return out

    def _origin(self, tensor: torch.Tensor) -> _Cut | None:
        made = self._made.get(id(tensor))
        return made[1] if made is not None and made[0] is tensor else None

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A hook for layers that are trained."""
        floats = [t for t in tensors([*args, *kwargs.values()]) if t.is_floating_point()]
        if not any(t.requires_grad for t in floats):
            self.suspicious += [cut for t in floats if (cut := self._origin(t)) is not None]


def _how(func: Any) -> str | None:
    name = getattr(func, "__name__", "")
    if name == "detach":
        return ".detach()"
    is_data = name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") == "data"
    return ".data" if is_data else None


def severed(bench: Bench, *, fitted: float, unfitted: float, unheard: float) -> Severed | None:
    """A cut with which more than `unfitted` of one batch's loss stays, and without which it can be fitted;
    or, if anything is random, more than `unheard` when it is drawn anew at each step. A fit ends below `fitted`.

    Raises:
        UserCodeError: the loader raised.
        Skip: it did not end in its time, or the set-up cannot be built again.
    """
    session = bench.session()
    names = {module: name for name, module in session.model.named_modules()}
    batch = session.first_batch()
    session.model.train()
    with running(session.model) as stack, undisturbed(session.model), kept_rng(bench.seed):
        cuts = _Cuts(lambda: names[stack[-1]] if stack else "", mend=False)
        trained = [m for m in session.model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
        hooks = (m.register_forward_pre_hook(cuts.enter, with_kwargs=True) for m in trained)
        try:
            with attached(hooks), cuts, torch.enable_grad():
                session.loss(batch)
        except (UserCodeError, Skip):
            return None
    if not cuts.suspicious:
        return None
    try:
        attempts = Attempts(bench, session, choose(session, bench.seed))
        limit = max(unfitted, unheard) if attempts.chosen.floor < 0 or attempts.is_mostly_frozen else unfitted
        if attempts.chosen.cut or not math.isfinite(attempts.chosen.first) or attempts.chosen.is_flat:
            return None
        left, stays = attempts.fit_still(fitted), attempts.still_loss
        is_noisy = not left > limit
        if is_noisy:
            # What cannot see its input can still memorise the noise that comes with it, if that stays the same.
            if not attempts.is_stochastic():
                return None
            limit = unheard
            left, stays, _ = attempts.fit_moving(unheard)
        if not left > limit:
            return None
        with _mended(session):
            without = attempts.fit_still(fitted)
            falls = attempts.still_loss
            if is_noisy:
                without, falls, _ = attempts.fit_moving(unheard)
    except (UserCodeError, LossUnknown, RuntimeError):
        return None
    if not without <= limit or not left - without >= BETTER:
        return None
    cut = cuts.suspicious[0]
    return Severed(cut.module, cut.how, cut.source, stays, falls, left, without)


@contextlib.contextmanager
def _mended(session: Session) -> Iterator[None]:
    """The loss of `session` is computed without detaching anything."""
    original = session.loss

    def loss(batch: Any) -> torch.Tensor:
        with _Cuts(lambda: "", mend=True):
            return original(batch)

    session.loss = loss  # type: ignore[method-assign]
    try:
        yield
    finally:
        del session.loss
