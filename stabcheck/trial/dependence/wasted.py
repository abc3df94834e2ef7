"""Inputs on which a model spends weights without any effect on what it returns, or on its loss."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.dependence.effect import FLAT, doubled, without_effect
from stabcheck.trial.dependence.subject import Changed, Subject, prepared
from stabcheck.trial.dependence.trace import Op, aligned, traced
from stabcheck.trial.modes import kept_modes
from stabcheck.trial.rng import kept_rng
from stabcheck.userland import UserCodeError

STEPS = 5
"""Training steps after which what has no effect yet counts as cut off: gates that start closed have moved by then."""


@dataclass(frozen=True)
class Waste:
    """Where the last that weights made of an input is lost."""

    op: Op
    unread: bool
    """Nothing takes the result of this operation; otherwise the result does not depend on the input any more."""


def is_heard_by_loss(subject: Subject, names: Iterable[str], change: Changed) -> bool:
    """Whether the loss changes when other samples' content takes the place of these inputs, in the model's calls or in the
    batch that they are taken from, as that of labels which the model is given too. True if that cannot be told."""
    session = subject.session
    given = {name: t for name, t in subject.inputs().items() if name in set(names)}

    def exchanged(tensor: torch.Tensor) -> torch.Tensor:
        other = tensor.clone()
        for name, part in given.items():
            if _is_part(part, tensor):
                start = part.storage_offset() - tensor.storage_offset()
                other.as_strided(part.shape, part.stride(), start).copy_(change(name, part))
        return other

    def loss(batch: Any, change: Changed | None = None) -> float:
        def replaced(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return subject.replaced(args, kwargs, change) if change is not None else None

        handle = session.model.register_forward_pre_hook(replaced, with_kwargs=True)
        try:
            with kept_rng(subject.seed):
                return float(session.loss(batch).detach())
        finally:
            handle.remove()

    with kept_modes(session.model):
        session.model.train()
        try:
            once, again = loss(subject.batch), loss(subject.batch)
            other, elsewhere = loss(subject.batch, change), loss(batches.map_tensors(subject.batch, exchanged))
        except UserCodeError:
            return True
    return not once == again == other == elsewhere


def _is_part(part: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether a tensor is a view of another's memory."""
    if whole.layout != torch.strided or not whole.is_contiguous() or part.dtype != whole.dtype:
        return False
    end = whole.storage_offset() + whole.numel()
    same = part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    return same and whole.storage_offset() <= part.storage_offset() < end


def waste(subject: Subject, axes: dict[str, int]) -> Waste | None:
    """Where what weights have made of these inputs is lost, given that they have no effect; None if no weights have worked on
    them, if an activation loses it, or if the operations cannot be followed."""
    traces = [traced(subject), traced(subject, doubled(axes))]
    (base, _), (other, entered) = (t or (None, ()) for t in traces)
    if base is None or other is None:
        return None
    weights = {id(p) for p in subject.session.model.parameters()}
    differing, weighed = set(entered), set[int]()
    found: Waste | None = None
    for before, after in aligned(base, other):
        reached = differing.intersection(after.given)
        is_weighed = bool(reached & weighed) or (bool(reached) and not weights.isdisjoint(after.given))
        if not reached and not weights.isdisjoint(after.given):
            weights.update(after.made)  # weights that are brought into shape
        pairs = zip(before.results, after.results, after.made, strict=True)
        changed = {made for old, new, made in pairs if not torch.equal(old, new)}
        differing = (differing - set(after.made)) | changed
        weighed -= set(after.made)
        if is_weighed:
            weighed |= changed
            found = Waste(before, unread=bool(changed))
    lost = found is not None and not found.unread and found.op.name.strip("_") in FLAT
    return None if lost else found


def still_ignored(bench: Bench, axes: dict[str, int]) -> bool:
    """Whether the same inputs have no effect after a few training steps of a fresh set-up either."""
    session = bench.session()
    session.model.train()
    try:
        for batch in itertools.islice(session.epoch(), STEPS):
            session.step(batch)
        with prepared(session, bench.seed) as later:
            same = {name: axis for name, axis in axes.items() if name in later.inputs()}
            return bool(same) and without_effect(later, same, lambda outputs: outputs)
    except (UserCodeError, Skip):
        return False
