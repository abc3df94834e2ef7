"""Models whose weights are masked so that each output sees only what comes before it, and that see their own target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stabcheck.trial import batches
from stabcheck.trial.dependence.difference import is_changed
from stabcheck.trial.dependence.subject import Subject
from stabcheck.trial.hooks import attached
from stabcheck.trial.rng import kept_rng
from stabcheck.userland import UserCodeError

PROBES = 12
"""Places of the input that are changed, one after the other."""
FEWEST = 3
"""Pairs of places of which one reaches the other, from which there is an order among them."""
MOST = 0.5
"""Share of the places that may be said by themselves: in a mask that is right none is."""


@dataclass(frozen=True)
class SelfSeeing:
    """An output that is given what it is to say."""

    name: str
    """Of the input."""
    output: str
    module: str
    """The first module with masked weights."""
    seen: int
    """Places whose own output changes with them."""
    probed: int


def own_target(subject: Subject) -> SelfSeeing | None:
    """Change the input at one place after the other. In a model with masked weights whose outputs follow one order (none reaches
    a place that reaches it), the output that the loss compares with a place must not depend on it."""
    module = _masked(subject.session.model)
    if not module:
        return None
    for name, tensor in subject.inputs().items():
        if subject.axis(tensor) == 0 and tensor.is_floating_point() and tensor.dim() >= 2:
            for output, found in subject.base.items():
                if _places(found) == _places(tensor) and found.shape[:1] == tensor.shape[:1]:
                    seen = _judged(subject, name, output, module)
                    if seen is not None:
                        return seen
    return None


def _masked(model: nn.Module) -> str:
    """Path of the first module that holds zeros and ones in the shape of one of its weights; "" if there is none."""
    for path, module in model.named_modules():
        shapes = {p.shape for p in module.parameters(recurse=False) if p.dim() >= 2}
        for buffer in module.buffers(recurse=False):
            if buffer.shape in shapes and bool(((buffer == 0) | (buffer == 1)).all()) and 0 < buffer.float().mean() < 1:
                return path or type(module).__name__
    return ""


def _places(tensor: torch.Tensor) -> tuple[int, ...]:
    """The axes that count places: the columns of a table, the points of a picture."""
    return tuple(tensor.shape[1:] if tensor.dim() == 2 else tensor.shape[2:])


def _judged(subject: Subject, name: str, output: str, module: str) -> SelfSeeing | None:
    tensor = subject.given(name).detach()
    count = int(torch.tensor(_places(tensor)).prod())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(subject.seed))[:PROBES].tolist()
    reached: dict[int, set[int]] = {}
    try:
        compared = _compared_with(subject, name, output, tensor, order)
        for place in order:
            other = _moved(tensor, place)
            changed = subject.run(lambda n, t, other=other: other if n == name else t)[output]  # type: ignore[misc]
            reached[place] = _changed(subject.base[output], changed)
    except (UserCodeError, RuntimeError, KeyError):
        return None
    pairs = [(a, b) for a in order for b in order if a != b and b in reached[a]]
    if not compared or len(pairs) < FEWEST or any(a in reached[b] for a, b in pairs):
        return None
    seen = sum(place in reached[place] for place in order)
    return SelfSeeing(name, output, module, seen, len(order)) if seen > MOST * len(order) else None


def _compared_with(subject: Subject, name: str, output: str, tensor: torch.Tensor, order: list[int]) -> bool:
    """Whether the loss compares the output at each place with the input there, and with nothing else: with the outputs held,
    a change of the input moves the gradient of the loss there alone."""
    base = _wanted(subject, output, None)
    for place in order[:FEWEST]:
        moved = _wanted(subject, output, (tensor, _moved(tensor, place)))
        if base is None or moved is None or _changed(base, moved) != {place}:
            return False
    return True


def _wanted(subject: Subject, output: str, change: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor | None:
    """The gradient of the loss by an output that is held, for the batch with one of its tensors in another's place."""
    held = {n: t.detach().clone().requires_grad_() for n, t in subject.base.items()}
    names = list(held)

    def instead(module: nn.Module, args: object, out: object) -> object:
        waiting = iter(names)
        usable = [t for t in batches.tensors(out) if t.is_floating_point() and t.numel()]
        if len(usable) != len(names):
            return None
        return batches.map_tensors(out, lambda t: held[next(waiting)] if t.is_floating_point() and t.numel() else t)

    def exchanged(tensor: torch.Tensor) -> torch.Tensor:
        if change is None or tensor.shape != change[0].shape or not torch.equal(tensor, change[0]):
            return tensor
        return change[1]

    batch = batches.map_tensors(batches.clone(subject.batch), exchanged)
    model = subject.session.model
    with attached([model.register_forward_hook(instead)]), torch.enable_grad(), kept_rng(subject.seed):
        loss = subject.session.loss(batch)
        (gradient,) = torch.autograd.grad(loss, [held[output]], allow_unused=True)
    return gradient


def _moved(tensor: torch.Tensor, place: int) -> torch.Tensor:
    """The input with other content at one place in every sample, such as it holds elsewhere."""
    other = tensor.clone()
    flat = other.flatten(1) if tensor.dim() == 2 else other.flatten(2)
    part = flat[..., place]
    flat[..., place] = torch.where(part == tensor.max(), tensor.min(), tensor.max())
    return flat.view(tensor.shape)


def _changed(before: torch.Tensor, after: torch.Tensor) -> set[int]:
    """Places at which any sample's output changed."""
    changed = is_changed(before, after)
    flat = changed.flatten(1).any(0) if before.dim() == 2 else changed.flatten(2).any(1).any(0)
    return set(flat.nonzero().flatten().tolist())
