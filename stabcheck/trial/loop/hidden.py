"""Weights that training differentiates by although the model does not list them: they are in nobody's optimizer.

A layer in a plain list works in forward() and is in neither `parameters()` nor `state_dict()`.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stabcheck.trial.batches import tensors
from stabcheck.trial.loop.ownership import is_drawn, looks_fresh, reaches
from stabcheck.trial.nested import Item, inside
from stabcheck.trial.session import Session

MOSTLY = 0.5
"""Share of the numbers that must look as drawn: a pretrained network that is hidden on purpose, so that no checkpoint
holds it, has a tiny layer here and there that could be taken for fresh."""
_INTERNALS = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Hidden:
    """Parameters that get gradients in several calls, that nobody changes and that the model does not list."""

    owner: str | None
    """Path of the model's module that keeps them; None if it is not the model that does."""
    name: str
    """The attribute of that module, or the class that they belong to."""
    inside: str
    """What the attribute is: "list", "dict", ...; empty where it is the tensor itself."""
    count: int
    shape: tuple[int, ...]
    """Of the first of them."""


def hidden(session: Session, batch: Any, suspects: Sequence[torch.Tensor]) -> list[Hidden]:
    """Where `suspects` are kept, if they look as drawn and not as trained; a step on `batch` may be taken."""
    if not suspects:
        return []
    left = {id(t): t for t in suspects}
    found = []
    for (owner, name, kept_in), items in _kept_by(session.model, left).items():
        for tensor, _ in items:
            left.pop(id(tensor), None)
        if _is_fresh(items):
            found.append(Hidden(owner, name, kept_in, len(items), tuple(items[0][0].shape)))
    # What the model does not keep may be there for another purpose: only what builds on trained parts belongs to it.
    others = {key: t for key, t in left.items() if isinstance(t, nn.Parameter)}
    for module, items in _built_on(session, batch, _modules_of(others)).items():
        if _is_fresh(items):
            found.append(Hidden(None, type(module).__name__, "", len(items), tuple(items[0][0].shape)))
    return found


def _is_fresh(items: Sequence[Item]) -> bool:
    fresh = sum(t.numel() for t, module in items if (looks_fresh(module) if module is not None else is_drawn(t)))
    return fresh >= MOSTLY * sum(t.numel() for t, _ in items)


def _kept_by(model: nn.Module, wanted: Mapping[int, torch.Tensor]) -> dict[tuple[str, str, str], list[Item]]:
    """Those of `wanted` that an attribute of one of the model's modules leads to, by (module, attribute, its type)."""
    found: dict[tuple[str, str, str], list[Item]] = {}
    visited: set[int] = {id(module) for module in model.modules()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in _INTERNALS:
                continue
            kept_in = "" if isinstance(value, torch.Tensor) else type(value).__name__
            for tensor, owner in inside(value, visited, 0):
                if id(tensor) in wanted:
                    found.setdefault((path, name, kept_in), []).append((tensor, owner))
    return found


def _modules_of(wanted: Mapping[int, torch.Tensor]) -> dict[nn.Module, list[Item]]:
    """The outermost modules in this process that list any of `wanted`."""
    if not wanted:
        return {}
    found: dict[nn.Module, list[Item]] = {}
    for module in [o for o in gc.get_objects() if issubclass(type(o), nn.Module) and "_parameters" in vars(o)]:
        subs = [(p, sub) for sub in module.modules() for p in sub.parameters(recurse=False) if id(p) in wanted]
        if subs:
            found[module] = subs
    within = {id(sub) for module in found for sub in module.modules() if sub is not module}
    return {module: items for module, items in found.items() if id(module) not in within}


def _built_on(session: Session, batch: Any, candidates: dict[nn.Module, list[Item]]) -> dict[nn.Module, list[Item]]:
    """Those that are called with something that comes from the model's parameters."""
    if not candidates:
        return {}
    trained = {id(p) for p in session.model.parameters() if p.requires_grad}
    built: set[nn.Module] = set()

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        if reaches(list(tensors([*args, *kwargs.values()])), trained):
            built.add(module)

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in candidates]
    try:
        session.step(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {module: items for module, items in candidates.items() if module in built}
