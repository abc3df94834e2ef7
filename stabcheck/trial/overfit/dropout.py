"""A model with its dropout switched off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from stabcheck.userland import passed_on


class _NoDropout(TorchFunctionMode):
    """Dropout of every kind that torch.nn.functional has lets everything through."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = {**kwargs, "dropout_p": 0.0} if "dropout_p" in kwargs else kwargs
        elif "dropout" in name and (args or "input" in kwargs):
            return args[0] if args else kwargs["input"]
        return passed_on(func, *args, **kwargs)


@contextlib.contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """Let nothing be dropped inside, by modules or functions."""
    kept: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        if (value := _probability(module)) > 0:
            kept.append((module, _attribute(module), value))
    for module, name, _ in kept:
        setattr(module, name, 0.0)
    try:
        with _NoDropout():
            yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def strongest_dropout(model: nn.Module) -> str | None:
    """Path of the module that drops most; None if no module drops anything."""
    found = [(p, name) for name, module in model.named_modules() if (p := _probability(module)) > 0]
    return max(found)[1] if found else None


def _probability(module: nn.Module) -> float:
    value = getattr(module, _attribute(module), None)
    return value if isinstance(value, float) else 0.0


def _attribute(module: nn.Module) -> str:
    return "p" if isinstance(module, nn.modules.dropout._DropoutNd) else "dropout"
