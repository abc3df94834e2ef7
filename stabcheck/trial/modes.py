"""What looking at a model must leave as it was: modes, weights, buffers, gradients. And what its optimizers hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn.parameter import is_lazy


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Every module leaves in the mode in which it came, whatever happens inside."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        # Not by train(), which user code may override and which does not reach modules that are called by other means.
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def unseen_by_autograd(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """For what leaves `tensors` as they were: a graph that the user keeps from step to step, such as that of a running sum of
    losses, does not take them for changed. Autograd counts writes, and does not look whether the numbers came back."""
    with ExitStack() as stack:
        for tensor in tensors:
            if not is_lazy(tensor) and not tensor.is_inference():  # autograd counts no writes to these
                stack.enter_context(_unsafe_preserve_version_counter(tensor))
        yield


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put weights, buffers, modes and gradients back on leaving."""
    gradients = [(p, p.grad) for p in model.parameters()]
    kept = [(t, t.detach().clone()) for t in [*model.parameters(), *model.buffers()] if not is_lazy(t)]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with unseen_by_autograd(tensor for tensor, _ in kept):
            try:
                with kept_modes(model):
                    yield
            finally:
                with torch.no_grad():
                    for tensor, value in kept:
                        if not torch.equal(tensor, value):
                            tensor.copy_(value)
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


def held_by(*optimizers: Any) -> set[int]:
    """`id` of every tensor in the parameter groups of `optimizers`; None among them holds nothing."""
    return {id(p) for o in optimizers if o is not None for group in o.param_groups for p in group["params"]}
