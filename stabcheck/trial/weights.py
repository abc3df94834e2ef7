"""The weights that a model multiplies with, each with the axis that counts its units.

They are found by watching one forward, so that a layer written by hand is seen as well as nn.Linear, and a
weight that is made from others (weight norm) as the one that is really used. What runs as one piece (recurrent
layers, nn.MultiheadAttention) is read from its parameters.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from stabcheck.trial.bench import Bench
from stabcheck.trial.call_watch import CallWatch, argument, watch_one

_WEIGHTS: dict[str, tuple[tuple[int, str, int], ...]] = {
    "linear": ((1, "weight", 0),),
    "addmm": ((2, "mat2", -1),),
    **{f"conv{d}d": ((1, "weight", 0),) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": ((1, "weight", 1),) for d in (1, 2, 3)},
    **dict.fromkeys(("matmul", "__matmul__", "mm"), ((1, "other", -1), (0, "input", -2))),
}
"""Function -> (argument, its name, the axis of its units) of what may be a weight."""
MOST_NODES = 8
"""Functions between a parameter and the weight that is made from it."""
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Weight:
    """One weight in use."""

    module: str
    key: str
    """Its attribute in the module."""
    tensor: torch.Tensor
    """As it was used."""
    axis: int
    """The axis of `tensor` that counts units."""
    parts: int = 1
    """Stacked weights of the same layer: the gates of a recurrent one, query, key and value."""

    @property
    def name(self) -> str:
        """Path of the module, or of the parameter where a module holds it under a name of its own."""
        is_plain = self.key == "weight" or self.parts > 1
        return self.module if is_plain and self.module else f"{self.module}.{self.key}".lstrip(".")

    @property
    def rows(self) -> torch.Tensor:
        """(parts, units, inputs), detached, float32."""
        return self.rows_of(self.tensor)

    def rows_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same of another state of this weight."""
        flat = tensor.detach().float().movedim(self.axis, 0)
        return flat.reshape(self.parts, flat.shape[0] // self.parts, -1)

    @property
    def scale(self) -> float:
        """Standard deviation times the root of the number of inputs: 1 keeps the size of the signal (LeCun), 1.41 is
        He's, 0.58 the default of PyTorch's layers."""
        rows = self.rows
        return float(rows.square().mean().sqrt()) * math.sqrt(rows.shape[-1])


def in_model(model: nn.Module, weight: Weight) -> torch.Tensor | None:
    """The same weight in another build of the model, as it is now; None if it is not an attribute there."""
    with contextlib.suppress(AttributeError), torch.no_grad():
        found = getattr(model.get_submodule(weight.module), weight.key)
        return found if isinstance(found, torch.Tensor) else None
    return None


def multiply(model: nn.Module, weight: Weight, factor: float) -> bool:
    """Make that weight of `model` `factor` times as large, through whatever it is made from; False where it cannot be."""
    tensor, owner = in_model(model, weight), model.get_submodule(weight.module)
    if tensor is None:
        return False
    length = getattr(owner, f"{weight.key}_g", None)
    with torch.no_grad(), contextlib.suppress(Exception):  # a parametrization that cannot be inverted
        if isinstance(tensor, nn.Parameter):
            tensor.mul_(factor)
        elif parametrize.is_parametrized(owner, weight.key):
            setattr(owner, weight.key, tensor * factor)
        elif isinstance(length, nn.Parameter):
            length.mul_(factor)
        else:
            return False
        return True
    return False


class _WeightWatch(CallWatch):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.modules = dict(model.named_modules())
        self.places = {
            id(p): (name, key) for name, module in self.modules.items() for key, p in module._parameters.items()
        }
        self.found: dict[tuple[str, str], Weight] = {}

    def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Keep the weight of a layer, once."""
        for index, key, axis in _WEIGHTS.get(name, ()):
            tensor = argument(args, kwargs, index, key)
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad and tensor.dim() > 1:
                self._keep(tensor, axis % tensor.dim(), is_layer=key == "weight")

    def _keep(self, tensor: torch.Tensor, axis: int, *, is_layer: bool) -> None:
        base = tensor if tensor._base is None else tensor._base
        place = self.places.get(id(base))
        if place is None and is_layer and _is_made(self.modules.get(self.module), "weight"):
            place, base = (self.module, "weight"), tensor
        if place is None and (made := _made_from(tensor)) is not None:  # as under a mask
            parameter, is_turned = made
            self._put(
                self.places.get(id(parameter)), tensor.mT if is_turned else tensor, 1 - axis if is_turned else axis
            )
            return
        if place is None or tensor.numel() != base.numel() or base.dim() != tensor.dim():
            return
        if base.shape != tensor.shape or base.stride() != tensor.stride():
            if tensor.dim() != 2 or base.shape != tensor.shape[::-1]:
                return
            axis = 1 - axis  # transposed
        self._put(place, base, axis)

    def _put(self, place: tuple[str, str] | None, tensor: torch.Tensor, axis: int) -> None:
        if place is not None:
            self.found.setdefault(place, Weight(*place, tensor, axis))


_KEEPS_PLACE = (
    "Mul", "Div", "Tril", "Triu", "MaskedFill", "Where", "ToCopy", "Clone", "Alias", "T", "Permute", "Transpose", "Neg",
)  # fmt: skip
"""Nodes of autograd that leave every number of a weight where it is, or turn it over as a whole."""


def _made_from(tensor: torch.Tensor) -> tuple[nn.Parameter, bool] | None:
    """(the one parameter that it is made from number by number: masked, scaled, transposed or of another type; whether it is
    transposed)"""
    node, passed, turns = tensor.grad_fn, 0, 0
    while node is not None and not hasattr(node, "variable"):
        above = [parent for parent, _ in node.next_functions if parent is not None]
        kind = node.name().rstrip("0123456789").removesuffix("Backward")
        if len(above) != 1 or kind not in _KEEPS_PLACE or passed > MOST_NODES:
            return None
        node, passed, turns = above[0], passed + 1, turns + (kind in {"T", "Permute", "Transpose"})
    found, is_turned = getattr(node, "variable", None), turns % 2 == 1
    if not isinstance(found, nn.Parameter) or found.dim() != 2 or tensor.dim() != 2:
        return None
    return (found, is_turned) if (tensor.shape[::-1] if is_turned else tensor.shape) == found.shape else None


def _is_made(owner: nn.Module | None, key: str) -> bool:
    """Whether the weight is computed from parameters at each forward."""
    return owner is not None and (parametrize.is_parametrized(owner, key) or f"{key}_g" in owner._parameters)


def weights_in_use(bench: Bench) -> list[Weight]:
    """The trainable weights of the set-up before any step, in order of use.

    Raises:
        UserCodeError: neither a loss nor a step can be had.
        Skip: the same.
    """
    watch = watch_one(bench, lambda model, batch: _WeightWatch(model))
    return [*watch.found.values(), *_of_pieces(watch.model, watch.entered)]


def _of_pieces(model: nn.Module, entered: set[str]) -> Iterator[Weight]:
    for name, module in model.named_modules():
        if name not in entered:
            continue
        parts = 3 if isinstance(module, nn.MultiheadAttention) else _GATES.get(type(module).__name__, 0)
        for key, parameter in module._parameters.items():
            if parts and parameter is not None and parameter.dim() == 2 and parameter.requires_grad:
                divides = key.startswith(("weight_", "in_proj")) and parameter.shape[0] % parts == 0
                yield Weight(name, key, parameter, 0, parts if divides else 1)
