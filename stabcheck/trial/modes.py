"""The training modes of a model's modules, and what its optimizers hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


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


def held_by(*optimizers: Any) -> set[int]:
    """`id` of every tensor in the parameter groups of `optimizers`; None among them holds nothing."""
    return {id(p) for o in optimizers if o is not None for group in o.param_groups for p in group["params"]}
