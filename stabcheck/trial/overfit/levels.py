"""One real batch, and the levels between which fitting it is judged."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from stabcheck.recording import Yardsticks
from stabcheck.trial import batches
from stabcheck.trial.losses import split
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import ONLY_IN_STEP, measure, one_for_all
from stabcheck.userland import UserCodeError, passed_on

SAMPLES, TOKEN_SAMPLES = 16, 4
"""As many samples a small model can memorise in a hundred steps; sequences of tokens hold many targets each."""
BATCHES_TRIED = 5
UNBOUNDED = 1e3
"""A loss that falls below zero by so many times the larger of the constant guess's and its first has no floor worth the
name."""
FLAT = 1e-3
"""A gap between constant and best prediction below this share of the distance to the floor is none."""
SMALLEST = sys.float_info.min
"""Stands in for a gap of zero. Losses may be of any size, so nothing larger can."""


class LossUnknown(Exception):  # noqa: N818 - it is no error
    """The loss cannot be computed outside the user's step; the message says so."""


@dataclass(frozen=True)
class OneBatch:
    """A batch to be fitted. `whole` is the loader's batch that it was cut from, `first` its loss at the start.

    The height is the loss of the best constant prediction (the first loss, where that is not known or not above the
    floor), the floor the lowest that the loss can reach.
    """

    batch: Any
    whole: Any
    levels: Yardsticks
    first: float
    cut: str
    """Why no gradient comes from the loss; empty if one does."""

    @property
    def samples(self) -> int:
        """Samples in the batch."""
        return batches.size(self.batch)

    @property
    def is_flat(self) -> bool:
        """Whether the best prediction gains nothing over the best constant one."""
        levels = self.levels
        if levels.constant is None or levels.oracle is None:
            return False
        reach = max(levels.zero or levels.constant, levels.constant) - levels.oracle
        return levels.constant - levels.oracle <= FLAT * max(reach, abs(levels.oracle), SMALLEST)

    @property
    def is_blind(self) -> bool:
        """The same by the two levels alone: targets may be far from zero, and zero then says nothing of them."""
        constant, oracle = self.levels.constant, self.levels.oracle
        if constant is None or oracle is None:
            return False
        return constant - oracle <= FLAT * max(abs(constant), abs(oracle))

    @property
    def height(self) -> float:
        """The loss that counts as nothing learnt."""
        return self.first if self.levels.constant is None or self.is_flat else self.levels.constant

    @property
    def floor(self) -> float:
        """The loss that counts as perfect."""
        if self.levels.oracle is not None and self.levels.oracle > -UNBOUNDED * self._size:
            return self.levels.oracle
        constant = self.levels.constant if self.levels.constant is not None else self.first
        return min(0.0, constant - abs(constant)) if math.isfinite(constant) else 0.0

    @property
    def _size(self) -> float:
        known = (self.levels.constant, self.levels.zero, self.first)
        return max(abs(v) for v in known if v is not None)

    @property
    def gap(self) -> float:
        """What there is to learn."""
        return max(self.height - self.floor, SMALLEST)

    def left(self, loss: float) -> float:
        """Share of the gap that is left at `loss`."""
        return (loss - self.floor) / self.gap

    def level(self, share: float) -> float:
        """The loss at which `share` of the gap is left."""
        return self.floor + share * self.gap if self.height > self.floor else -math.inf


def choose(session: Session, seed: int) -> OneBatch:
    """The first of a few batches on which predictions can differ at all, cut to a few samples.

    Raises:
        LossUnknown: the loss is known only inside the user's step.
        UserCodeError: the loader, the model or the loss raised.
    """
    session.model.train()
    chosen: OneBatch | None = None
    for count, whole in enumerate(session.epoch("train_loader")):
        whole = batches.clone(whole)
        batch = batches.clone(batches.cut(whole, TOKEN_SAMPLES if _is_tokens(whole) else SAMPLES))
        try:
            loss = _first_loss(session, batch, seed)
        except UserCodeError:  # its parts may not share a first axis, as with the joined targets of CTC
            batch = whole
            loss = _first_loss(session, batch, seed)
        first, cut = float(loss.detach()), _cut(session, loss)
        levels = Yardsticks(None, None, None) if cut else measure(session, [batch], seed)
        candidate = OneBatch(batch, whole, levels, first, cut)
        if chosen is None or not candidate.is_flat:
            chosen = candidate
        if cut or not candidate.is_flat or count + 1 >= BATCHES_TRIED:
            break
    if chosen is None:
        session.first_batch()  # raises with the reason
    assert chosen is not None
    return chosen


def _first_loss(session: Session, batch: Any, seed: int) -> torch.Tensor:
    setup = session.setup
    with kept_rng(seed):
        try:
            return session.loss(batch)
        except UserCodeError:
            if setup.train_step is None or setup.loss_fn or setup.compute_loss:
                raise
            raise LossUnknown(ONLY_IN_STEP) from None


def _cut(session: Session, loss: torch.Tensor) -> str:
    parameters = [p for p in session.model.parameters() if p.requires_grad]
    if not parameters:
        return "no parameter requires a gradient"
    if not loss.requires_grad:
        return "it does not require grad"
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return "" if any(g is not None for g in gradients) else "backward reaches none of them"


def blind_spot(session: Session, chosen: OneBatch, seed: int) -> str | None:
    """Where the loss is the same for the best and the best constant prediction though targets differ: the shapes that
    meet in it. None if the loss can tell them apart."""
    if session.setup.loss_fn is None:
        return _crossing(session, chosen, seed) if chosen.is_blind else None
    targets = split(chosen.batch)[1]
    with torch.no_grad(), kept_rng(seed):
        outputs = session.outputs(chosen.batch)
    shapes = ""
    if isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor):
        shapes = f" (outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)})"
        if outputs.dim() > 2 and _crossed(outputs.shape, targets.shape):
            chosen = replace(chosen, levels=measure(session, [chosen.batch], seed, shapes=one_for_all))
    differs = any(bool((t != t[:1]).any()) for t in batches.tensors(targets) if t.dim() and len(t) > 1)
    return shapes if differs and chosen.is_blind else None


class _Crossings(TorchFunctionMode):
    """Notes the shapes of the first operation that spreads two tensors of equal size over more elements."""

    shapes: tuple[torch.Size, torch.Size] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call through; look at elementwise arithmetic and losses."""
        pair = [a.shape for a in args[:2] if isinstance(a, torch.Tensor)]
        if getattr(func, "__name__", "") in _ELEMENTWISE and len(pair) == 2 and self.shapes is None:
            a, b = pair
            if a.numel() == b.numel() and a.numel() > 1 and _crossed(a, b):
                self.shapes = (a, b)
        return passed_on(func, *args, **(kwargs or {}))


_ELEMENTWISE = {
    *("sub", "__sub__", "rsub", "__rsub__", "mul", "__mul__", "__rmul__", "add", "__add__", "__radd__"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"),
}


def _crossing(session: Session, chosen: OneBatch, seed: int) -> str | None:
    mode = _Crossings()
    with mode, kept_rng(seed):
        session.loss(chosen.batch)
    return (
        f" ({tuple(mode.shapes[0])} and {tuple(mode.shapes[1])} meet in elementwise arithmetic)"
        if mode.shapes
        else None
    )


def _crossed(outputs: torch.Size, targets: torch.Size) -> bool:
    """Whether elementwise arithmetic would spread both over more elements than either has, as (N, 8, 8) with
    (N, 1, 8, 8)."""
    try:
        both = torch.broadcast_shapes(outputs, targets).numel()
    except RuntimeError:
        return False
    return int(both) > max(outputs.numel(), targets.numel())


def conflicting(session: Session, chosen: OneBatch) -> int:
    """Samples whose input equals another's in the batch while the target differs; 0 without a loss_fn."""
    if session.setup.loss_fn is None:
        return 0
    inputs, targets = (_rows(part, chosen.samples) for part in split(chosen.batch))
    if len(inputs) != len(targets):
        return 0
    rows = list(zip(inputs, targets, strict=True))
    return sum(any(a[0] == b[0] and a[1] != b[1] for b in rows) for a in rows)


def _is_tokens(batch: Any) -> bool:
    first = next(batches.tensors(batch), None)
    return first is not None and not first.is_floating_point() and first.dim() >= 2 and first.shape[1] > 1


def _rows(value: Any, count: int) -> list[tuple[bytes, ...]]:
    """Each sample of `value` as something comparable; empty if its tensors have no common first axis."""
    found = list(batches.tensors(value))
    if not found or any(not t.dim() or len(t) != count for t in found):
        return []
    return [tuple(t[i].detach().cpu().float().numpy().tobytes() for t in found) for i in range(count)]
