"""Which parameters have an optimizer, and what those without one look like."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stabcheck.trial.batches import tensors
from stabcheck.trial.modes import held_by
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session

ENOUGH = 2000
"""Elements of a weight by which its distribution is judged; more would find the last trace of rounding."""
UNLIKELY = 1.95
"""Kolmogorov-Smirnov distance, times the root of the count, that one fresh layer in a thousand exceeds: 3 of 2,220 with
seven initialisations do. Of hidden layers of 4,096 weights trained for 500 steps none passes for fresh, of heads of 640 half do."""


@dataclass(frozen=True)
class Orphan:
    """A module whose parameters get gradients that no optimizer uses."""

    module: str
    parameters: tuple[str, ...]
    whole: bool
    """None of its trainable parameters has an optimizer, or it is a container and owns each on its own."""
    fresh: bool
    """Its weights look as drawn, not as trained."""
    downstream: bool
    """Its gradient is on the way to parameters that are trained."""
    last: bool
    """No module that is trained runs after it."""


def alive_optimizers() -> list[torch.optim.Optimizer]:
    """Every optimizer in this process: one that steps once in a hundred calls is not forgotten."""
    return [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer) and hasattr(o, "param_groups")]


def without_optimizer(model: nn.Module, reached: set[str], optimizers: Iterable[Any]) -> list[str]:
    """Names of the parameters of `reached` that none of `optimizers` holds."""
    held = held_by(*optimizers)
    return [name for name, p in model.named_parameters() if name in reached and p.requires_grad and id(p) not in held]


def foreign_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Tensors in `optimizer` that are not the model's and have no gradient."""
    own = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [p for p in held if id(p) not in own and (p.grad is None or not bool(p.grad.any()))]


def replaced_by(model: nn.Module, names: Sequence[str], old: Sequence[torch.Tensor]) -> list[str]:
    """Those of `names` that have the shape of a tensor in `old`, each of which is taken once; or, where a layer has another
    number of outputs than the one it took the place of, whose inputs are the same; with the others of their modules."""
    named = dict(model.named_parameters())
    left = list(old)
    found = []
    for alike in (_same_shape, _same_inputs):
        for name in names:
            match = next((t for t in left if alike(named[name], t)), None) if name not in found else None
            if match is not None:
                found.append(name)
                left = [t for t in left if t is not match]
    modules = {name.rpartition(".")[0] for name in found}
    return [name for name in names if name.rpartition(".")[0] in modules]


def _same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape


def _same_inputs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dim() == b.dim() > 1 and a.shape[1:] == b.shape[1:]


def orphans(session: Session, batch: Any, names: Sequence[str], held: set[int]) -> list[Orphan]:
    """The modules that own `names`, in order of execution, looked at during one step on `batch`; the step is taken."""
    model = session.model
    by_module: dict[str, list[str]] = {}
    for name in names:
        by_module.setdefault(name.rpartition(".")[0], []).append(name)
    trained = {id(p) for p in model.parameters() if p.requires_grad and id(p) in held}
    order: list[str] = []
    behind_trained: dict[str, bool] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            order.append(path)
            if path in by_module and path not in behind_trained:
                behind_trained[path] = reaches(list(tensors([*args, *kwargs.values()])), trained)

        return hook

    handles = [
        module.register_forward_hook(note(path), with_kwargs=True)
        for path, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        session.step(batch)
    finally:
        for handle in handles:
            handle.remove()
    ran_trained = [path for path in order if any(id(p) in trained for p in _own(model, path))]
    last_trained = len(order) - 1 - order[::-1].index(ran_trained[-1]) if ran_trained else -1
    return [
        Orphan(
            module=path,
            parameters=tuple(found),
            # What a container owns beside its layers (a class token, positions) is each a part of its own.
            whole=len(found) == len(_own(model, path)) or any(model.get_submodule(path).children()),
            fresh=looks_fresh(model.get_submodule(path)),
            downstream=behind_trained.get(path, False),
            last=path in order and len(order) - 1 - order[::-1].index(path) > last_trained,
        )
        for path, found in by_module.items()
    ]


def _own(model: nn.Module, path: str) -> list[nn.Parameter]:
    return [p for p in model.get_submodule(path).parameters(recurse=False) if p.requires_grad]


def modules_of(model: nn.Module, held: set[int]) -> int:
    """How many modules have trainable parameters of their own, all of them in `held`."""
    own = [[p for p in m.parameters(recurse=False) if p.requires_grad] for m in model.modules()]
    return sum(bool(ps) and all(id(p) in held for p in ps) for ps in own)


def reaches(values: Sequence[torch.Tensor], wanted: set[int]) -> bool:
    """Whether the graph behind `values` holds one of the parameters whose `id` is in `wanted`."""
    stack: list[Any] = [t.grad_fn for t in values]
    seen: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in wanted:
            return True
        stack += [parent for parent, _ in node.next_functions]
    return False


def looks_fresh(module: nn.Module) -> bool:
    """Whether the module's own parameters look as they do before any training: constant, or independent draws from one
    normal or uniform distribution around zero."""
    own = list(module.parameters(recurse=False))
    return bool(own) and all(_is_drawn(p.detach()) for p in own)


def _is_drawn(parameter: torch.Tensor) -> bool:
    flat = parameter.reshape(-1).float().cpu()
    if flat.numel() < 2 or bool((flat == flat[0]).all()):
        return True
    if flat.numel() > ENOUGH:
        with kept_rng(0):
            flat = flat[torch.randperm(flat.numel())[:ENOUGH]]
    scale = float(flat.square().mean().sqrt())
    ordered = flat.sort().values / scale
    normal = 0.5 + 0.5 * torch.erf(ordered / math.sqrt(2))
    uniform = (0.5 + ordered / math.sqrt(12)).clamp(0, 1)
    return min(_distance(ordered, normal), _distance(ordered, uniform)) < UNLIKELY


def _distance(ordered: torch.Tensor, expected: torch.Tensor) -> float:
    count = len(ordered)
    steps = torch.arange(count + 1) / count
    gap = torch.maximum((steps[1:] - expected).abs(), (steps[:-1] - expected).abs()).max()
    return float(gap) * math.sqrt(count)
