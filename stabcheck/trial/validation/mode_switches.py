"""What a module's training flag switches, and why eval() may fail to reach it."""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from stabcheck.loading import source_of
from stabcheck.userland import userland

Switch = Literal["dropout", "statistics", "custom"]

_TORCH_MODULES = "torch.nn.modules."


def switch(module: nn.Module) -> Switch | None:
    """What differs between the modes of this module itself, its children aside.

    "dropout": activations are dropped at random in training mode. "statistics": training mode normalises by the batch
    and updates running statistics. "custom": code outside torch.nn reads `self.training`, which may or may not matter.
    None: nothing.
    """
    if isinstance(module, _DropoutNd):
        return "dropout" if module.p > 0 else None
    if isinstance(module, _NormBase):
        return "statistics" if module.track_running_stats and module.running_mean is not None else None
    if isinstance(module, nn.RNNBase):
        return "dropout" if module.dropout > 0 and module.num_layers > 1 else None
    if isinstance(module, nn.MultiheadAttention):
        return "dropout" if module.dropout > 0 else None
    if isinstance(module, nn.RReLU):
        return "dropout"
    return "custom" if _reads_training(type(module)) else None


def is_batch_norm(module: nn.Module) -> bool:
    """A BatchNorm of any dimension that keeps running statistics."""
    return isinstance(module, _BatchNorm) and switch(module) == "statistics"


def is_untouched(module: Any) -> bool:
    """Whether the running statistics of a BatchNorm are the initial ones, mean 0 and variance 1."""
    return not bool(module.running_mean.any()) and bool((module.running_var == 1).all())


def _reads_training(kind: type) -> bool:
    for cls in kind.__mro__:
        if cls is nn.Module:
            return False
        if cls.__module__.startswith(_TORCH_MODULES):
            continue
        if cls.__module__.startswith("torch.jit"):
            return True  # compiled code hides what it reads
        for item in vars(cls).values():
            function = item.__func__ if isinstance(item, (staticmethod, classmethod)) else item
            if isinstance(function, FunctionType) and _names_training(function.__code__):
                return True
    return False


def _names_training(code: CodeType) -> bool:
    return "training" in code.co_names or any(
        _names_training(inner) for inner in code.co_consts if isinstance(inner, CodeType)
    )


def beyond_eval(root: nn.Module, module: nn.Module) -> tuple[str, tuple[str, int] | None] | None:
    """Why `root.eval()` leaves `module` in training mode, and where that was written; None if it does reach it.

    Raises:
        UserCodeError: the model's own train() or eval() raised.
    """
    modes = {m: m.training for m in (*root.modules(), module)}
    try:
        with userland("model.eval()"):
            root.eval()
        reached = not module.training
    finally:
        for m, mode in modes.items():
            m.training = mode
    if reached:
        return None
    paths = {id(m): name for name, m in root.named_modules()}
    if id(module) not in paths:
        return "it is kept outside the module tree, in a plain list or dict for instance", None
    parts = paths[id(module)].split(".") if paths[id(module)] else []
    for depth in range(len(parts), -1, -1):
        above = root.get_submodule(".".join(parts[:depth]))
        for name in ("train", "eval"):
            owner = next(cls for cls in type(above).__mro__ if name in vars(cls))
            if not owner.__module__.startswith("torch."):
                return f"{owner.__name__}.{name}() is overridden and leaves it there", source_of(vars(owner)[name])
    return None


def hidden_path(parent: nn.Module, path: str, module: nn.Module) -> str:
    """A path for a module that runs inside `parent` (at `path`) unregistered, such as "encoder.blocks[2]"."""
    for name, value in vars(parent).items():
        items = dict(enumerate(value)) if isinstance(value, (list, tuple)) else value if isinstance(value, dict) else {}
        place = next((f"{name}[{key!r}]" for key, item in items.items() if item is module), None)
        place = name if value is module else place
        if place is not None:
            return f"{path}.{place}" if path else place
    return f"{path}.{type(module).__name__}" if path else type(module).__name__
