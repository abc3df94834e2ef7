"""State that a model keeps from one call to the next, row by row, while the loader shuffles its rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.calls import watched_call
from stabcheck.trial.dependence.difference import Outputs, equal, is_changed
from stabcheck.trial.dependence.subject import named_outputs
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

State = dict[tuple[nn.Module, str], Any]


@dataclass(frozen=True)
class Carried:
    """An attribute by which the rows of one batch get into the same rows of the next."""

    attribute: str
    module: str
    """Path of the module that holds it; "" for the model itself."""


def carried(bench: Bench) -> Carried | None:
    """Whether an output depends on the sample that stood in the same row of the batch before, and on no other, through a tensor
    that the model keeps; None unless the loader draws its samples at random: in a chosen order rows may go on where they ended."""
    session = bench.session()
    loader = session.setup.train_loader
    if not isinstance(loader, DataLoader) or type(loader.sampler) is not RandomSampler:
        return None
    session.model.eval()
    try:
        with kept_rng(bench.seed):
            first, second = (session.placed(b) for b in itertools.islice(session.epoch("train_loader"), 2))
        return _by_row(session, first, second, bench.seed)
    except (UserCodeError, Skip, ValueError):
        return None


def _by_row(session: Session, first: Any, second: Any, seed: int) -> Carried | None:
    count = batches.size(second)
    if batches.size(first) != count or count < 2:
        return None
    start = _state(session.model)

    def after(*given: Any) -> Outputs:
        _restore(start)
        for batch in given:
            call = watched_call(session, batch, seed)
        return named_outputs(call.output)

    other = batches.map_tensors(first, lambda t: _with_row(t, count))
    base, again, before, changed = after(second), after(second), after(first, second), after(other, second)
    kept = _state(session.model)
    _restore(start)
    if not equal(base, again) or equal(before, changed):
        return None
    for name, tensor in before.items():
        rows = is_changed(tensor, changed[name]).flatten(1).any(1) if tensor.shape[:1] == (count,) else None
        if rows is None or not bool(rows[0]) or bool(rows[1:].any()):
            return None
    moved = [key for key, value in kept.items() if key not in start or not _same(start[key], value)]
    paths = {module: path for path, module in session.model.named_modules()}
    return Carried(moved[0][1], paths[moved[0][0]]) if moved else None


def _with_row(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Another sample in the place of the first."""
    if tensor.dim() < 1 or len(tensor) != count:
        return tensor
    other = tensor.clone()
    other[0] = tensor[1]
    return other


def _state(model: nn.Module) -> State:
    """What modules keep beside their weights: tensors, and tuples of them."""
    found: State = {}
    for module in model.modules():
        for name, value in [*vars(module).items(), *module.named_buffers(recurse=False)]:
            if value is None or isinstance(value, torch.Tensor) or _is_several(value):
                found[module, name] = batches.map_tensors(value, lambda t: t.detach().clone())
    return found


def _is_several(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(isinstance(v, torch.Tensor) for v in value)


def _restore(state: State) -> None:
    for (module, name), value in state.items():
        setattr(module, name, batches.map_tensors(value, lambda t: t.clone()))


def _same(one: Any, other: Any) -> bool:
    pairs = list(zip(batches.tensors(one), batches.tensors(other), strict=False))
    return (one is None) == (other is None) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
