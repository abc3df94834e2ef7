"""Modules whose output is computed and then thrown away, by the very forward that called them.

What a forward returns and its caller leaves aside (a pooler, an auxiliary head) is there for others and not meant here; nor
what is kept for later, looked at in passing, or used in eval mode.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stabcheck.recording import Dropped
from stabcheck.trial.autograd_graph import nodes_behind
from stabcheck.trial.batches import tensors
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.nested import inside
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, passed_on

_OF_SHAPE = {"size", "dim", "numel", "__len__", "stride", "element_size", "__hash__", "is_floating_point"} | {
    f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")
}
"""Functions that look at no value."""


@dataclass(eq=False)
class _Run:
    """One call of a module."""

    name: str
    parent: _Run | None
    given: list[torch.Size]
    out: list[torch.Tensor] = field(default_factory=list)
    calls: list[_Run] = field(default_factory=list)

    @property
    def nodes(self) -> set[Any]:
        return {t.grad_fn for t in self.out if t.grad_fn is not None}

    @functools.cached_property
    def behind(self) -> set[Any]:
        """All nodes that its output comes from, these included."""
        return set(nodes_behind(*self.out))


class _Glances(TorchFunctionMode):
    """Tensors of which something was computed that has no gradient: they were logged, compared or chosen by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call through."""
        out = passed_on(func, *args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        is_attribute = name == "__get__" and not isinstance(out, torch.Tensor)
        looks = not is_attribute and name not in _OF_SHAPE and not name.startswith("new_")
        if looks and not any(t.requires_grad for t in tensors(out)):
            self.seen += [t for t in tensors([*args, *(kwargs or {}).values()]) if t.grad_fn is not None]
        return out


def dropped(session: Session, names: Sequence[str], batch: Any, seed: int) -> tuple[Dropped, ...]:
    """Those of the modules in `names` whose output is thrown away while the loss of `batch` is computed."""
    if not names:
        return ()
    model = session.model
    found: dict[str, Dropped] = {}
    with undisturbed(model), kept_rng(seed), contextlib.suppress(UserCodeError), torch.enable_grad():
        with _runs(model) as root, _Glances() as glances:
            root.out = [session.loss(batch)]
        used = set(nodes_behind(*glances.seen, *_stored(model)))
        found = {name: one for name in names if (one := _thrown_away(root, name, used)) is not None}
    if found:
        with undisturbed(model), kept_rng(seed), contextlib.suppress(UserCodeError), torch.enable_grad():
            model.eval()
            with _runs(model) as root:
                root.out = [session.loss(batch)]
            found = {n: f for n, f in found.items() if not any(run.nodes & root.behind for run in _calls_of(root, n))}
    return tuple(found.values())


@contextlib.contextmanager
def _runs(model: nn.Module) -> Iterator[_Run]:
    """The calls of the modules inside, as a tree; its root is what called the model."""
    root = _Run("", None, [])
    stack = [root]
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        run = _Run(names[module], stack[-1], [t.shape for t in tensors([*args, *kwargs.values()])])
        stack[-1].calls.append(run)
        stack.append(run)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if len(stack) > 1:
            stack.pop().out = list(tensors(output))

    modules = [m for m in names if not isinstance(m, torch.jit.ScriptModule)]
    before = (m.register_forward_pre_hook(enter, with_kwargs=True) for m in modules)
    with attached(before, (m.register_forward_hook(leave, always_call=True) for m in modules)):
        yield root


def _calls_of(run: _Run, name: str) -> Iterator[_Run]:
    for call in run.calls:
        if call.name == name:
            yield call
        yield from _calls_of(call, name)


def _thrown_away(root: _Run, name: str, used: set[Any]) -> Dropped | None:
    """Why the module has no way to the loss, if every call of it was thrown away."""
    verdicts = [_of_call(call, used) for call in _calls_of(root, name)]
    return verdicts[0] if verdicts and all(verdicts) else None


def _of_call(call: _Run, used: set[Any]) -> Dropped | None:
    """Climb to the call of which no output went on, while that of its parent did."""
    if not call.nodes or call.nodes & used:
        return None
    name = call.name
    while call.parent is not None:
        parent, behind = call.parent, call.parent.behind
        if not call.nodes & behind:
            later = parent.calls[parent.calls.index(call) + 1 :]
            going_on = [other for other in parent.calls if other.nodes & behind]
            shapes = [s for other in later if other in going_on for s in other.given]
            shapes += [t.shape for other in [*going_on, parent] for t in other.out]
            fits = any(t.dim() > 1 and t.shape in shapes for t in call.out)
            return Dropped(name, call.name, parent.name, fits) if behind else None
        if not call.nodes <= behind:
            return None  # a part of what it returns is used, and nobody need use all
        call = parent
    return None


def _stored(model: nn.Module) -> list[torch.Tensor]:
    """Tensors with a graph that attributes of the model's modules lead to."""
    visited = {id(module) for module in model.modules()}
    values = [
        value for module in model.modules() for key, value in vars(module).items() if not key.startswith("_forward")
    ]
    return [t for value in values for t, _ in inside(value, visited, 0) if t.grad_fn is not None]
