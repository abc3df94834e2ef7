"""Inputs of which the model makes zeros before it multiplies with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from stabcheck.trial.dependence.effect import doubled, without_effect
from stabcheck.trial.dependence.subject import Subject, same_for
from stabcheck.trial.dependence.trace import Op, aligned, traced
from stabcheck.userland import UserCodeError

BATCHES = 8
"""Batches in which there must be nothing but zeros: what is there for rare events is zero in one, and not in all."""
PRODUCTS = {
    *("mul", "matmul", "mm", "bmm", "einsum", "linear", "addmm", "baddbmm", "addbmm", "mv", "rmul", "rmatmul", "bilinear"),
    *("conv1d", "conv2d", "conv3d"),
}  # fmt: skip
"""Operations in which one operand decides how much of the other there is; torch.sparse's are called mm too."""


@dataclass(frozen=True)
class Zeroed:
    """Where an input ends, and what goes on without it."""

    lost: Op
    """The operation that makes zeros of it."""
    product: Op
    """The first that multiplies something else with these."""
    batches: int


def zeroed(subject: Subject, name: str, axis: int) -> Zeroed | None:
    """Where the model makes zeros of an input that differs between samples, whatever it holds, and multiplies other numbers with
    them; None if it does not, or not for every batch."""
    traces = [traced(subject), traced(subject, doubled({name: axis}))]
    (base, _), (other, entered) = (t or (None, ()) for t in traces)
    if base is None or other is None:
        return None
    differing, empty = set(entered), dict[int, Op]()
    for before, after in aligned(base, other):
        reached = bool(differing.intersection(after.given))
        cause = next((empty[i] for i in after.given if i in empty), None)
        others = [i for i in after.given if i not in empty]
        if cause is not None and others and before.name.strip("_") in PRODUCTS:
            return Zeroed(cause, before, count) if (count := _as_often(subject, name, axis)) else None
        differing.difference_update(after.made)
        for old, new, made in zip(before.results, after.results, after.made, strict=True):
            empty.pop(made, None)
            if not torch.equal(old, new):
                differing.add(made)
            elif new.numel() > 1 and not bool(new.any()) and (cause is not None or (reached and _reads(before.name))):
                empty[made] = cause or before
    return None


def _reads(name: str) -> bool:
    """Whether an operation reads the numbers it is given, and not just their number."""
    return not name.endswith("_like") and not name.startswith("new_")


def _as_often(subject: Subject, name: str, axis: int) -> int:
    """The number of further batches in all of which the input has no effect either; 0 if there is one in which it has."""
    count = 0
    for one in _others(subject):
        if name not in one.inputs() or not without_effect(one, {name: axis}, lambda outputs: outputs):
            return 0
        count += 1
    return count


def _others(subject: Subject) -> Iterator[Subject]:
    for batch in itertools.islice(subject.session.epoch("train_loader"), BATCHES):
        try:
            yield same_for(subject, batch)
        except UserCodeError:
            continue
