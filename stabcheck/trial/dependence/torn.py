"""Reshapes that stand where axes were to be exchanged: they keep the numbers in their order and cut that order anew."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stabcheck.trial.dependence.subject import Subject
from stabcheck.trial.dependence.trace import Op, Trace, traced

TAKES_PART = {"__getitem__", "narrow", "select", "index_select", "split", "chunk", "unbind", "tensor_split"}
"""What follows a reshape that shifts on purpose, as for relative positions: the part that is not wanted is cut off."""


@dataclass(frozen=True)
class Torn:
    """A reshape after which the axis of an old length counts something else."""

    op: Op
    length: int
    """Of that axis."""


def torn_axis(before: Sequence[int], after: Sequence[int]) -> int | None:
    """Length of the first axis that a reshape of one sample tears; None if it tears none.

    An axis of this length is there again, but at other strides; and the new shape is that of the axes in another order, one
    of them split or two of them merged on the way, so an exchange of axes was meant. What only splits and merges
    neighbours, as heads, windows, patches and flattening do, tears nothing.
    """
    old, new = ([size for size in shape if size > 1] for shape in (before, after))
    gone, added = (list((Counter(a) - Counter(b)).elements()) for a, b in ((old, new), (new, old)))
    if math.prod(old) != math.prod(new) or sorted((len(gone), len(added))) not in ([0, 0], [1, 2]):
        return None
    spans, others = _spans(old), _spans(new)
    edges, cuts = ({edge for _, span in side for edge in span} for side in (spans, others))
    if edges <= cuts or cuts <= edges:
        return None
    return next((size for size, span in spans if size in new and (size, span) not in others), None)


def _spans(shape: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    """Of each axis its length, and how many numbers are between its neighbours and in all of it."""
    strides = list(itertools.accumulate(reversed(shape), lambda a, b: a * b, initial=1))
    return list(zip(shape, list(itertools.pairwise(strides))[::-1], strict=True))


def torn(subject: Subject) -> Torn | None:
    """The first reshape in the model that tears the axes within a sample, if its result differs from sample to sample."""
    found = traced(subject)
    if found is None or subject.is_ambiguous():
        return None
    for op in found[0].ops:
        if op.before is None or not op.results:
            continue
        shapes = _of_one_sample(op.before.shape, op.results[0].shape, subject.samples)
        length = torn_axis(*shapes) if shapes else None
        if length is not None and _differs(op.before, subject.samples) and not _shifts(found[0], op):
            return Torn(op, length)
    return None


def _of_one_sample(before: Sequence[int], after: Sequence[int], samples: int) -> tuple[list[int], list[int]] | None:
    """The two shapes without the axis of the samples and what comes before it; None if they do not share these."""
    axis = next((i for i, size in enumerate(before) if size == samples), len(before))
    if axis >= min(len(before), len(after)) or before[:axis] != after[:axis] or after[axis] % samples:
        return None
    return list(before[axis + 1 :]), [after[axis] // samples, *after[axis + 1 :]]


def _differs(tensor: torch.Tensor, samples: int) -> bool:
    rows = tensor.movedim(tensor.shape.index(samples), 0)
    return len(rows) > 1 and bool((rows != rows[:1]).any())


def _shifts(trace: Trace, op: Op) -> bool:
    readers = (other for other in trace.ops if other is not op and set(op.made) & set(other.given))
    return next((other.name in TAKES_PART for other in readers), False)
