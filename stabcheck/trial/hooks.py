"""Hooks that are gone when their block ends: on modules, on tensors, and on the optimizers of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from stabcheck.trial.modes import held_by


@contextlib.contextmanager
def attached(*handles: RemovableHandle | Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks behind `handles` on leaving; a generator of them is run inside."""
    with contextlib.ExitStack() as stack:
        for given in handles:
            for handle in [given] if isinstance(given, RemovableHandle) else given:
                stack.callback(handle.remove)
        yield


@contextlib.contextmanager
def running(model: nn.Module, on_enter: Callable[[nn.Module], None] | None = None) -> Iterator[list[nn.Module]]:
    """The modules of `model` whose forward is running, the innermost last, kept up to date inside."""
    stack: list[nn.Module] = []

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(module)
        if on_enter is not None:
            on_enter(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if stack:  # a module that raised before its first hook was never entered
            stack.pop()

    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]  # these take no hooks
    before = (m.register_forward_pre_hook(enter) for m in modules)
    after = (m.register_forward_hook(leave, always_call=True) for m in modules)
    with attached(before, after):
        yield stack


def before_steps(
    parameters: Iterable[torch.Tensor], hook: Callable[[Any], None]
) -> contextlib.AbstractContextManager[None]:
    """Inside, call `hook(optimizer)` before each step of an optimizer that holds one of `parameters`, whoever steps it."""
    ours = {id(p) for p in parameters}

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        if held_by(optimizer) & ours:
            hook(optimizer)

    return attached(register_optimizer_step_pre_hook(note))
