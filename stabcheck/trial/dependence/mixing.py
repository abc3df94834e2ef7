"""Whether a sample's output depends on another sample of the batch, and which operation brings them together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stabcheck.check import Source
from stabcheck.trial.dependence.difference import Outputs, is_changed, scale
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.dependence.trace import RESHAPES, Op, Trace, aligned, first, traced
from stabcheck.userland import UserCodeError

PAIRS = 8
"""Pairs of samples that are judged by themselves."""
DONORS = 4
"""Other samples whose content is tried in a sample's place, nearest first: sorted lengths stay sorted with a neighbour's."""


@dataclass(frozen=True)
class Mixing:
    """Outputs of other samples that changed with one sample."""

    output: str
    samples: int
    """Of the batch."""
    sample: int
    """The one that was exchanged."""
    others: int
    """Samples whose output changed although their input did not; 0 if samples meet inside and nothing of it gets out."""
    change: float
    """Largest such change, over the root mean square of the output."""
    culprit: Op | None
    """The first operation whose result depends on two samples."""
    reshaped: Op | None
    """The reshape before it that scattered samples over other axes."""
    rnn: nn.Module | None
    """The recurrent or attention module that the culprit belongs to."""

    by_choice_only: bool
    """Samples meet only in a decision that no gradient passes, as in the routing of experts with a capacity."""

    @property
    def source(self) -> Source | None:
        """The user's line to look at."""
        op = self.reshaped or self.culprit
        return op.line if op else None


@dataclass(frozen=True)
class Independence:
    """What exchanging samples showed."""

    looked_at: tuple[str, ...]
    """Outputs with a sample axis that reacted to their own sample."""
    mixing: Mixing | None
    why_not: str = ""
    """Why nothing could be looked at."""


def independence(subject: Subject) -> Independence:
    """Exchange one sample of the batch, then another, and see whose outputs change."""
    count = subject.samples
    axes = {name: axis for name, t in subject.inputs().items() if (axis := subject.axis(t)) is not None}
    if count < 2:
        return Independence((), None, "the batch holds a single sample")
    if not axes:
        return Independence((), None, "no tensor that the model is given has an axis for the samples of the batch")
    if subject.is_ragged():
        return Independence(
            (), None, "the batch holds tensors in which samples follow one another without an axis of their own"
        )
    outputs = [name for name, t in subject.base.items() if count in t.shape]
    if not outputs:
        return Independence((), None, "no output has an axis for the samples of the batch")
    responded: set[str] = set()
    tried: list[tuple[int, Changed]] = []
    for sample in dict.fromkeys((count // 2, 1 if count > 2 else 0)):
        exchanged = _exchange(subject, axes, sample, outputs)
        if exchanged is None:
            continue
        change, other = exchanged
        tried.append((sample, change))
        for name in outputs:
            base = subject.base[name]
            changed, own = is_changed(base, other[name]), _own(base, count, sample)
            if bool((changed & own).any()):
                responded.add(name)
            strange = changed & ~own
            if bool(strange.any()):
                return Independence(
                    _outputs_seen(responded, name), _mixing(subject, axes, name, sample, strange, other)
                )
    if not tried:
        return Independence((), None, "the samples are all equal, or one in another's place changes the shapes")
    if responded:
        return Independence(tuple(sorted(responded)), None)
    return Independence((), _inside(subject, axes, tried[0][0]), "no output reacts to its own sample")


def _outputs_seen(responded: set[str], name: str) -> tuple[str, ...]:
    """The outputs that were looked at, in a fixed order."""
    return tuple(sorted(responded | {name}))


def _exchange(
    subject: Subject, axes: dict[str, int], sample: int, outputs: list[str]
) -> tuple[Changed, Outputs] | None:
    """The outputs with another sample's content in the place of `sample`, and how it was put there."""
    neighbours = sorted((i for i in range(subject.samples) if i != sample), key=lambda i: (abs(i - sample), i))
    for donor in neighbours[:DONORS]:
        change = _replacing(axes, sample, donor)
        if all(torch.equal(t, change(name, t)) for name, t in subject.inputs().items()):
            continue
        try:
            other = subject.run(change)
        except UserCodeError:
            continue
        if all(name in other and other[name].shape == subject.base[name].shape for name in outputs):
            return change, other
    return None


def _replacing(axes: dict[str, int], sample: int, donor: int) -> Changed:
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in axes:
            return tensor
        new = tensor.detach().clone()
        new.select(axes[name], sample).copy_(tensor.detach().select(axes[name], donor))
        return new

    return change


def _own(tensor: torch.Tensor, count: int, sample: int) -> torch.Tensor:
    """Elements at the place of `sample` along any axis that may count samples: a table of all pairs has two."""
    own = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    for axis, size in enumerate(tensor.shape):
        if size == count:
            own.select(axis, sample).fill_(True)
    return own


def _mixing(
    subject: Subject, axes: dict[str, int], name: str, sample: int, strange: torch.Tensor, other: Outputs
) -> Mixing:
    base = subject.base[name]
    axis = next(i for i, size in enumerate(base.shape) if size == subject.samples)
    others = int(strange.movedim(axis, 0).flatten(1).any(1).sum()) if base.dim() > 1 else int(strange.sum())
    change = float((base.float() - other[name].float()).abs()[strange].max()) / max(scale(base), 1e-30)
    culprit, reshaped = _culprit(subject, axes, sample)
    module = subject.session.model.get_submodule(culprit.module) if culprit else None
    sequential = module if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) else None
    passed = _passes_gradient(subject, name, sample, strange)
    if passed is None:
        passed = culprit is None or culprit.differentiable
    return Mixing(name, subject.samples, sample, others, change, culprit, reshaped, sequential, not passed)


def in_pairs(subject: Subject, name: str) -> float | None:
    """How far the predictions move when samples are judged two at a time and not all together, as a share of how much they
    differ from sample to sample; None where the model cannot be given two."""
    base, count = subject.base[name], subject.samples
    if not base.dim() or base.shape[0] != count:
        return None

    def pair(start: int) -> torch.Tensor | None:
        def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
            axis = subject.axis(tensor)
            return tensor if axis is None else tensor.narrow(axis, start, 2)

        try:
            found = subject.run(change).get(name)
        except UserCodeError:
            return None
        return found if found is not None and found.shape == base[:2].shape else None

    pairs = [pair(start) for start in range(0, min(count, 2 * PAIRS) - 1, 2)]
    alone = [found.float() for found in pairs if found is not None]
    if not alone or len(alone) < len(pairs):
        return None
    spread = scale(base.float() - base.float().mean(0))
    return scale(torch.cat(alone) - base[: 2 * len(alone)].float()) / max(spread, 1e-30)


def _inside(subject: Subject, axes: dict[str, int], sample: int) -> Mixing | None:
    """A recurrent or attention module that brings samples together on a way that ends before the outputs, as where only the
    row of a class token is read and attention runs over the batch."""
    culprit, reshaped = _culprit(subject, axes, sample)
    module = subject.session.model.get_submodule(culprit.module) if culprit else None
    if culprit is None or not isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return None
    return Mixing("", subject.samples, sample, 0, 0.0, culprit, reshaped, module, not culprit.differentiable)


def _passes_gradient(subject: Subject, name: str, sample: int, strange: torch.Tensor) -> bool | None:
    """Whether these outputs of other samples have a gradient to the input of `sample`; None if that cannot be told."""
    try:
        pairs = subject.gradients(name, strange)
    except (UserCodeError, RuntimeError):
        return None
    counted = [(t.shape.index(subject.samples), gradient) for t, gradient in pairs if subject.samples in t.shape]
    if not counted or len(counted) < len(pairs):
        return None
    return any(bool(gradient.select(axis, sample).any()) for axis, gradient in counted)


def _culprit(subject: Subject, axes: dict[str, int], sample: int) -> tuple[Op | None, Op | None]:
    """The first operation with a number that depends on two samples, and the reshape that led to it."""
    pair = sample, 0 if sample else 1
    traces: list[Trace] = []
    for chosen in (None, *pair):
        change = None
        if chosen is not None:
            found = _exchange(subject, axes, chosen, [])
            if found is None:
                return None, None
            change = found[0]
        trace = traced(subject, change)
        if trace is None:
            return None, None
        traces.append(trace[0])

    def meets(results: tuple[torch.Tensor, ...]) -> bool:
        base, one, two = results
        return bool(((base != one) & (base != two)).any())

    culprit = first(tuple(traces), meets)
    return culprit, _scattering(tuple(traces[:2]), culprit, subject.samples, sample)


def _scattering(traces: tuple[Trace, ...], culprit: Op | None, count: int, sample: int) -> Op | None:
    for base, other in aligned(*traces):
        if base is culprit and base.name not in RESHAPES:
            return None
        if base.name not in RESHAPES or base.before is None or other.before is None:
            continue
        if base.before.shape != other.before.shape:
            return None
        before, after = (a != b for a, b in ((base.before, other.before), (base.results[0], other.results[0])))
        if _is_tidy(before, count, sample) and not _is_tidy(after, count, sample):
            return base
    return None


def _is_tidy(changed: torch.Tensor, count: int, sample: int) -> bool:
    """Whether what changed lies in the sample's own part of some axis: one index, a block, or every n-th."""
    for axis, size in enumerate(changed.shape):
        if size % count:
            continue
        part = size // count
        where = changed.movedim(axis, 0).flatten(1).any(1) if changed.dim() > 1 else changed
        places = where.nonzero().flatten().tolist()
        if all(p // part == sample for p in places) or all(p % count == sample for p in places):
            return True
    return not bool(changed.any())
