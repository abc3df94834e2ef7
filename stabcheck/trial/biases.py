"""The biases of a model that start far from zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

LARGE = 2.0
"""Root mean square of a bias, over a layer or one gate of a recurrent one. Layers of PyTorch start below 1 and forget gates at 1.
A sigmoid passes a tenth of its slope at 3.6. It only chooses what a second trial sets to zero; its result decides."""
_GATES = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}


@dataclass(frozen=True)
class Bias:
    """One bias, or the part of it that belongs to one gate."""

    parameter: str
    """Its path in the model."""
    module: str
    gate: str
    """"" if it is the whole."""
    start: int
    stop: int
    size: float
    """Root mean square."""


def large_biases(model: nn.Module) -> list[Bias]:
    """The trainable ones above LARGE, in the order of the model's parameters."""
    found = []
    for module, owner in model.named_modules():
        gates = _GATES.get(type(owner).__name__.removesuffix("Cell"), ("",))
        for key, parameter in owner.named_parameters(recurse=False):
            if not key.startswith("bias") or parameter.dim() != 1 or not parameter.requires_grad:
                continue
            width = len(parameter) // len(gates)
            for i, gate in enumerate(gates):
                part = parameter.detach()[i * width : (i + 1) * width].float()
                size = float(part.square().mean().sqrt())
                if LARGE < size < float("inf"):
                    found.append(Bias(f"{module}.{key}".lstrip("."), module, gate, i * width, (i + 1) * width, size))
    return found


def set_to_zero(model: nn.Module, biases: list[Bias]) -> None:
    """Let them start at zero."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for bias in biases:
            if bias.parameter in parameters:
                parameters[bias.parameter][bias.start : bias.stop] = 0.0
