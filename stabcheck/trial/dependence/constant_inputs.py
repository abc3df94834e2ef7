"""Inputs that are all the same, batch after batch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.reading import is_label_name
from stabcheck.trial.batches import tensors
from stabcheck.trial.calls import watched_call
from stabcheck.trial.dependence.padding import padded_inputs
from stabcheck.trial.dependence.subject import Subject


@dataclass(frozen=True)
class Alike:
    """What all samples of some batches have in common."""

    name: str
    what: str
    """"token", "number" or "sample"."""
    value: str
    samples: int
    batches: int


def all_alike(subject: Subject, count: int) -> Alike | None:
    """What is the same in all samples of the first `count` batches, if nothing that the model is given differs but the amount
    of padding, while something else in the batch does."""
    first = _common(subject, subject.inputs())
    if first is None or not any(_differs(t) for t in _unseen(subject)):
        return None
    name, what, value = first
    samples = total = 0
    for batch in itertools.islice(subject.session.epoch("train_loader"), count):
        call = watched_call(subject.session, subject.session.placed(batch), subject.seed)
        again = Subject(subject.session, batch, call, subject.names, subject.samples, True, subject.seed, {})
        given = again.inputs().get(name)
        if given is None:
            return None
        again.samples = given.shape[0]
        if _common(again, again.inputs()) != first:
            return None
        samples, total = samples + again.samples, total + 1
    return Alike(name, what, value, samples, total)


def _common(subject: Subject, inputs: dict[str, torch.Tensor]) -> tuple[str, str, str] | None:
    padded = {p.name: p for p in padded_inputs(subject)}
    masks = {mask for p in padded.values() for mask in p.masks}
    found: tuple[str, str, str] | None = None
    for name, tensor in inputs.items():
        if subject.axis(tensor) != 0 or name in masks or is_label_name(name):
            continue
        content: Any = tensor[padded[name].real] if name in padded else tensor
        is_tokens = not tensor.is_floating_point() and tensor.dim() == 2 and tensor.dtype != torch.bool
        if is_tokens and not _differs(content.flatten()):
            found = found or (name, "token", str(int(content.flatten()[0])))
        elif name not in padded and not _differs(tensor):
            found = found or (name, "sample", "the same")
        else:
            return None
    return found


def _differs(rows: torch.Tensor) -> bool:
    return bool(rows.dim()) and len(rows) > 1 and bool((rows != rows[:1]).any())


def _unseen(subject: Subject) -> list[torch.Tensor]:
    given = {id(t) for t in subject.inputs().values()}
    return [t for t in tensors(subject.batch) if id(t) not in given or _is_target(subject, t)]


def _is_target(subject: Subject, tensor: torch.Tensor) -> bool:
    return any(t is tensor and is_label_name(name) for name, t in subject.inputs().items())
