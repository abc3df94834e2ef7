"""Masks that are the wrong way round: only padding counts in the loss, and what there is to predict is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.check import Source
from stabcheck.trial import batches
from stabcheck.trial.loss_contract.fault import Fault
from stabcheck.trial.loss_contract.watch import LossCall

FEWEST_BATCHES, FEWEST_TARGETS = 2, 16
"""Batches, and targets that count in them together, from which one value is no chance."""
FEWEST_LEFT = 3
"""Values that what is left out takes at least: it is more than another padding."""


@dataclass(frozen=True)
class Counted:
    """Which class numbers of one call count."""

    name: str
    place: Source | None
    values: frozenset[int]
    count: int
    left: frozenset[int]
    """What the others were, before anything was written over them."""
    left_count: int


def counted(call: LossCall, batch: Any) -> Counted | None:
    """Of one call, while its graph is there; None if it is no call with class numbers, or all count."""
    if not call.has_indices or call.target is None or call.pull is None:
        return None
    targets = call.target.detach()
    used = targets != call.ignore_index
    if call.pull.shape == targets.shape:
        used &= call.pull != 0
    elif not call.pull.any():
        return None
    if bool(used.all()):
        return None
    if not used.any():  # a batch without padding
        return Counted(call.name, call.place, frozenset(), 0, frozenset(), int((~used).sum()))
    classes = call.input.shape[call.class_axis]
    values = _kinds(targets[used])
    left = max((_kinds(t[~used], classes) for t in _sources(targets, batch, used)), key=len)
    return Counted(call.name, call.place, values, int(used.sum()), left, int((~used).sum()))


def _sources(targets: torch.Tensor, batch: Any, used: torch.Tensor) -> list[torch.Tensor]:
    """The targets as the loss got them, and as the batch may have held them: what agrees with them where they count."""
    found = [targets]
    for tensor in batches.tensors(batch):
        if tensor.numel() == targets.numel() and not tensor.is_floating_point() and tensor.dtype != torch.bool:
            shaped = tensor.detach().reshape(targets.shape).to(targets.device)
            if bool((shaped[used] == targets[used]).all()):
                found.append(shaped)
    return found


def _kinds(values: torch.Tensor, classes: int | None = None) -> frozenset[int]:
    inside = values if classes is None else values[(values >= 0) & (values < classes)]
    return frozenset(int(v) for v in inside.unique())


def only_padding(seen: Sequence[Counted | None]) -> Fault | None:
    """Whether one value is all that counts, batch after batch, while what is left out is of several; `seen` has every call
    with class numbers."""
    there = [one for one in seen if one is not None]
    values = frozenset().union(*(one.values for one in there)) if there else frozenset()
    left = frozenset().union(*(one.left for one in there)) - values if there else frozenset()
    count = sum(one.count for one in there)
    if (
        len(there) < max(FEWEST_BATCHES, len(seen))
        or len(values) != 1
        or count < FEWEST_TARGETS
        or len(left) < FEWEST_LEFT
    ):
        return None
    facts = {
        "loss": there[0].name, "value": next(iter(values)), "used": count, "batches": sum(bool(one.count) for one in there),
        "kinds": len(left),
        "unused": sum(one.left_count for one in there),
    }  # fmt: skip
    return Fault("only-padding-counts", there[0].place, facts)
