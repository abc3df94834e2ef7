"""The values that a training run holds, as plain data, and its own random generators."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from stabcheck.trial import batches

Kind = Literal[
    "weight",  # parameter of the set-up's model
    "buffer",  # persistent buffer of the set-up's model
    "module",  # parameter or persistent buffer of another module
    "moment",  # per-parameter state of an optimizer
    "held",  # a parameter of the model that an optimizer updates
    "option",  # entry of an optimizer's parameter group
    "schedule",  # attribute of a learning-rate scheduler
    "scaler",  # entry of a GradScaler's state_dict
    "mode",  # training flag or requires_grad
    "tensor",  # any other tensor
    "number",  # any other number, string or None
]

SAMPLE = 2**16
"""Elements kept of a tensor, evenly spread. A snapshot of a model of 10^9 parameters in 300 tensors, with the state of Adam,
then takes 240 MB, and half a dozen are held. Tensors up to this size are compared in full."""


@dataclass(frozen=True)
class Leaf:
    """One value. `part` is the object that a user would name: `model`, `ema`, `optimizer`, `state['step']`."""

    part: str
    kind: Kind
    value: Any
    """A float, int, str, bool or None; for tensors an evenly spread sample (1-D, on the CPU)."""
    shape: tuple[int, ...] | None = None


State: TypeAlias = Mapping[str, Leaf]
"""Leaves by path, in walking order."""

Generator: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


def generator_states(generators: Mapping[str, Generator]) -> dict[str, Any]:
    """The states of the random generators, by path."""
    return {path: _generator_state(item) for path, item in generators.items()}


def set_generators(generators: Mapping[str, Generator], states: Mapping[str, Any]) -> None:
    """Put the states of `generator_states` into the generators at the same paths."""
    for path, state in states.items():
        item = generators.get(path)
        if isinstance(item, torch.Generator):
            item.set_state(state)
        elif isinstance(item, np.random.Generator):
            item.bit_generator.state = state
        elif isinstance(item, np.random.RandomState):
            item.set_state(state)
        elif isinstance(item, random.Random):
            item.setstate(state)


def sample(tensor: torch.Tensor) -> torch.Tensor:
    """At most `SAMPLE` elements, evenly spread, as a new 1-D CPU tensor; complex ones as pairs."""
    with torch.no_grad():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        dense = local.detach() if local.layout == torch.strided else local.detach().to_dense()
        flat = (torch.view_as_real(dense) if dense.is_complex() else dense).reshape(-1)
        # An odd stride does not fall on the same column of every row.
        stride = max(1, math.ceil(flat.numel() / SAMPLE)) | 1 if flat.numel() > SAMPLE else 1
        return flat[::stride].to("cpu", copy=True)


def fingerprint(batch: Any) -> str:
    """A digest of the batch: of an evenly spread sample of each tensor, or of its text where it has none."""
    digest = hashlib.blake2b(digest_size=8)
    count = 0
    for tensor in batches.tensors(batch):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(sample(tensor).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        count += 1
    if not count:
        digest.update(repr(batch).encode())
    return digest.hexdigest()


def _generator_state(item: Generator) -> Any:
    if isinstance(item, torch.Generator):
        return item.get_state()
    if isinstance(item, np.random.Generator):
        return item.bit_generator.state
    return item.getstate() if isinstance(item, random.Random) else item.get_state()
