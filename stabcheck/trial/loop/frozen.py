"""Layers that are frozen as they were drawn, though training them would help.

What is frozen on purpose has been loaded or trained before, is no part of the loss's graph, is updated by other means, or does
as well as it is: only where none of these is so, and the set-up's own steps come much farther with the layers set free, is
it taken for a slip.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stabcheck import stats
from stabcheck.reading import TAIL
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.loop.ownership import looks_fresh
from stabcheck.trial.modes import held_by, undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.steps import step_losses
from stabcheck.userland import UserCodeError

STEPS = 400
"""Training steps of each of the two courses, or as many as are planned: what is frozen shows when the rest has settled."""
SECONDS, SHARE = 1.5, 0.05
"""For one course: at most, and of the remaining budget."""
FEWEST = 3 * TAIL
FEWEST_WEIGHTS = 16
"""A table or matrix smaller than that tells nothing by its looks."""


@dataclass(frozen=True)
class Frozen:
    """Modules that are frozen at random values, and how far the set-up's own steps come with and without that."""

    modules: tuple[str, ...]
    count: int
    first: float
    kept: float
    """Loss at the end of the steps as they are."""
    freed: float
    """Loss at the end of the same steps with these modules trained too."""
    steps: int


def frozen(bench: Bench, stepped: Session) -> Frozen | None:
    """What is frozen in a set-up of which `stepped` has taken some steps; None if nothing is, or if it can be meant.

    Raises:
        UserCodeError: the loader or the step raised.
        Skip: building the set-up again does not fit the budget.
    """
    optimizer = stepped.setup.optimizer
    if bench.built.learned or optimizer is None or not any(p.requires_grad for p in stepped.model.parameters()):
        return None
    found = _as_drawn(stepped.model, bench.shared().model)
    if not found:
        return None
    found = _in_the_way(bench, found)
    if not found:
        return None
    kept = _course(bench, [])
    freed = _course(bench, found)
    steps = min(len(kept), len(freed))
    if steps < FEWEST:
        return None
    last = slice(steps - max(TAIL, steps // 10), steps)
    first, end, better = stats.mean(kept[:3]), stats.mean(kept[last]), stats.mean(freed[last])
    count = sum(1 for path in found for _ in stepped.model.get_submodule(path).parameters(recurse=False))
    return Frozen(tuple(found), count, first, end, better, steps)


def _as_drawn(model: nn.Module, unstepped: nn.Module) -> list[str]:
    """Modules whose own weights are frozen, look as drawn, stay as they are, and are no copies of others."""
    others = dict(unstepped.named_modules())
    trained = [p for p in unstepped.parameters() if p.requires_grad]
    found = []
    for path, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
        if not own or any(p.requires_grad for p in module.parameters(recurse=False)) or path not in others:
            continue
        before = [p for p in others[path].parameters(recurse=False) if p.dim() > 1]
        still = len(before) == len(own) and all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(own, before, strict=True)
        )
        sized = all(p.numel() >= FEWEST_WEIGHTS and bool((p != p.flatten()[0]).any()) for p in own)
        if still and sized and looks_fresh(module) and not any(_is_copy(p, trained) for p in before):
            found.append(path)
    return found


def _is_copy(tensor: torch.Tensor, trained: list[nn.Parameter]) -> bool:
    """Whether some trained weight was the same at first, and so has the same shape: a teacher, a target network."""
    return any(p.shape == tensor.shape and torch.equal(p, tensor) for p in trained)


def _in_the_way(bench: Bench, paths: list[str]) -> list[str]:
    """Those of the modules that would get a gradient if they were free: nothing else is meant to be learnt from."""
    session = bench.session()
    owned = {path: _free(session, [path]) for path in paths}
    batch = batches.clone(session.first_batch())
    with undisturbed(session.model), kept_rng(bench.seed), torch.enable_grad():
        session.model.train()
        try:
            loss = session.loss(batch)
        except UserCodeError:
            session.step(batch)
            return [path for path, own in owned.items() if any(p.grad is not None and _any(p.grad) for p in own)]
        flat = [p for own in owned.values() for p in own]
        gradients = torch.autograd.grad(loss, flat, allow_unused=True) if loss.requires_grad else [None] * len(flat)
    pulled = {id(p) for p, g in zip(flat, gradients, strict=True) if g is not None and _any(g)}
    return [path for path, own in owned.items() if any(id(p) in pulled for p in own)]


def _any(gradient: torch.Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


def _free(session: Session, paths: list[str]) -> list[nn.Parameter]:
    """Let these modules be trained, by the set-up's optimizer; returns their weights."""
    own = [p for path in paths for p in session.model.get_submodule(path).parameters(recurse=False)]
    for parameter in own:
        parameter.requires_grad_(True)
    optimizer: Any = session.setup.optimizer
    new = [p for p in own if id(p) not in held_by(optimizer)]
    if new:
        options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        optimizer.add_param_group({**options, "params": new})
    return own


def _course(bench: Bench, paths: list[str]) -> list[float]:
    session = bench.session()
    if paths:
        _free(session, paths)
    deadline = time.monotonic() + max(0.0, min(SECONDS, SHARE * bench.remaining()))
    given = (batch for _, batch in session.train_batches())
    losses = list(
        step_losses(session, itertools.islice(given, min(STEPS, session.planned_steps or STEPS)), deadline=deadline)
    )
    there = [loss for loss in losses if loss is not None]
    return there if all(map(math.isfinite, there)) else []
