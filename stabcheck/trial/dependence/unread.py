"""Contents that are never read, conditions that are drawn and dropped, and outputs that are made of noise alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stabcheck.trial.batches import map_tensors, tensors
from stabcheck.trial.calls import watched_call
from stabcheck.trial.dependence.difference import equal
from stabcheck.trial.dependence.effect import doubled, is_without_effect
from stabcheck.trial.dependence.padding import padded_inputs
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.dependence.trace import aligned, traced
from stabcheck.trial.hooks import attached
from stabcheck.userland import UserCodeError

SYMBOLS = 4
"""Different tokens from which exchanging them says something: masks and segments have two or three."""
_STEPS = {"round", "floor", "ceil", "trunc", "sign", "heaviside", "hardshrink"}
_GUARDS = {"isnan", "isinf", "isfinite", "isposinf", "isneginf"}
"""What is asked so that nothing bad gets through, and chooses nothing."""


def unread_content(subject: Subject) -> str:
    """A padded input whose tokens, or vectors, may be exchanged for each other in any way without effect, so that only where
    it ends is known; "" if there is none."""
    for padded in padded_inputs(subject):
        tensor = subject.given(padded.name)
        content = tensor[padded.real]
        if len(content.unique(dim=0)) < SYMBOLS or any(word in padded.name.lower() for word in ("label", "target")):
            continue
        if is_without_effect(subject, _rolled(padded.name, padded.real), lambda outputs: outputs):
            return padded.name
    return ""


def _rolled(name: str, real: torch.Tensor) -> Changed:
    def change(given: str, tensor: torch.Tensor) -> torch.Tensor:
        if given != name:
            return tensor
        other = tensor.detach().clone()
        other[real] = other[real].roll(1, 0)
        return other

    return change


def drawn_in_loss(subject: Subject, name: str) -> bool:
    """Whether an input is no part of the batch and differs with the seed: the loss draws it."""
    tensor = subject.given(name)
    storages = {t.untyped_storage().data_ptr() for t in tensors(subject.batch) if t.layout == torch.strided}
    if tensor.untyped_storage().data_ptr() in storages:
        return False
    try:
        call = watched_call(subject.session, subject.batch, subject.seed + 1)
    except UserCodeError:
        return False
    again = Subject(subject.session, subject.batch, call, subject.names, subject.samples, True, subject.seed, {})
    other = again.inputs().get(name)
    return other is not None and other.shape == tensor.shape and not torch.equal(other, tensor)


def idle_weights(subject: Subject, *, run_at_all: bool = False) -> str:
    """Path of a layer with weights that is given the same for all samples, or else, unless `run_at_all`, is never run; "" if
    there is none."""
    alike: list[str] = []
    run: set[nn.Module] = set()

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            run.add(module)
            given = next(tensors(args), None)
            if (
                given is not None
                and given.dim()
                and len(given) == subject.samples
                and not bool((given != given[:1]).any())
            ):
                alike.append(name)

        return hook

    layers = {
        n: m for n, m in subject.session.model.named_modules() if next(m.parameters(recurse=False), None) is not None
    }
    with attached(module.register_forward_pre_hook(watch(name)) for name, module in layers.items()):
        subject.run()
    unused = [] if run_at_all else [name for name, module in layers.items() if module not in run]
    return next(iter([*alike, *unused]), "")


def made_of_noise(subject: Subject, axes: dict[str, int]) -> str:
    """An output that is made without any of the samples' inputs, from noise or from nothing, while the loss compares it with
    something of theirs; "" if there is none."""
    change = doubled(axes)
    for name, tensor in subject.base.items():
        if tensor.dim() < 2 or len(tensor) != subject.samples:
            continue
        if not bool((tensor != tensor[:1]).any()) and not _is_flat_copy(subject, tensor, axes):
            continue
        if not is_without_effect(subject, change, lambda outputs, n=name: {n: outputs[n]} if n in outputs else {}):  # type: ignore[misc]
            continue
        if _is_compared(subject, name, axes) and not _is_chosen(subject, tensor, change):
            return name
    return ""


def _is_chosen(subject: Subject, output: torch.Tensor, change: Changed) -> bool:
    """Whether an output is made from a choice (the nearest code, the highest score, a sign) among numbers that do depend on the
    inputs: that all samples choose the same for now is no proof that they are not asked."""
    traces = [traced(subject), traced(subject, change)]
    (base, _), (other, entered) = (t or (None, ()) for t in traces)
    if base is None or other is None:
        return False
    differing, chosen = set(entered), set[int]()
    for before, after in aligned(base, other):
        asked = bool(differing.intersection(after.given))
        follows = bool(chosen.intersection(after.given))
        differing.difference_update(after.made)
        chosen.difference_update(after.made)
        for old, new, made in zip(before.results, after.results, after.made, strict=True):
            if not torch.equal(old, new):
                differing.add(made)
            if follows or (asked and _is_choice(before.name, new)):
                chosen.add(made)
                if new.shape == output.shape and torch.equal(new, output):
                    return True
    return False


def _is_choice(name: str, result: torch.Tensor) -> bool:
    """Whether an operation makes steps of the numbers that it is given."""
    return name.strip("_") in _STEPS or not (
        result.is_floating_point() or name in _GUARDS or name.endswith("_like") or name.startswith("new_")
    )


def _is_flat_copy(subject: Subject, output: torch.Tensor, axes: dict[str, int]) -> bool:
    """Whether an output that is the same for all samples has the form of an input, and layers that are given the same for all
    are there to make it: a spread, or a prior, has none or another form."""
    forms = [subject.given(name).shape for name in axes if subject.given(name).is_floating_point()]
    return output.shape in forms and bool(idle_weights(subject, run_at_all=True))


def _is_compared(subject: Subject, name: str, axes: dict[str, int]) -> bool:
    """Whether what the loss wants of this output differs with the samples' own content."""

    def flipped(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flip(0) if tensor.dim() and len(tensor) == subject.samples else tensor

    wanted = []
    for batch in (subject.batch, map_tensors(subject.batch, flipped)):
        try:
            call = watched_call(subject.session, batch, subject.seed)
        except UserCodeError:
            return False
        outputs = [t for t in tensors(call.output) if t.is_floating_point() and t.numel()]
        names = list(subject.base)
        output = dict(zip(names, outputs, strict=False)).get(name)
        if len(names) != len(outputs) or output is None or not output.requires_grad or not call.loss.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(call.loss, [output], allow_unused=True)
        if gradient is None:
            return False
        wanted.append({name: gradient})
    return not equal(*wanted)
