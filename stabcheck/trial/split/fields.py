"""What one sample consists of: its leaves by path, which of them are the input, and which is the label."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stabcheck.userland import userland

TARGET_NAMES = frozenset({"label", "labels", "target", "targets", "y", "label_ids", "class", "classes", "answer"})
"""Keys that mean the target in samples that are mappings, as Hugging Face and torchvision name them."""

DEPTH = 6
"""Nesting beyond this is not followed; it also ends the walk through objects that refer to themselves."""

Leaf = np.ndarray[Any, Any] | str


def leaves(sample: Any) -> dict[str, Leaf]:
    """The numbers and texts of a sample by path ("0", "image", "1.label"), tensors and images as arrays.

    What is neither a number, a text nor a container of them is left out.

    Raises:
        UserCodeError: an object in it raised when it was looked at.
    """
    found: dict[str, Leaf] = {}
    with userland("sample"):
        _walk(sample, "", found, 0)
    return found


def _walk(value: Any, path: str, found: dict[str, Leaf], depth: int) -> None:
    leaf = _leaf(value, depth)
    if leaf is not None:
        found[path] = leaf
    elif depth < DEPTH:
        for name, item in _items(value):
            _walk(item, f"{path}.{name}" if path else name, found, depth + 1)


def _leaf(value: Any, depth: int) -> Leaf | None:
    if isinstance(value, torch.Tensor):
        return array_of(value)
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind in "biufc" else None
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("latin-1")
    if isinstance(value, (numbers.Number, np.generic)):
        return np.asarray(value)
    if isinstance(value, list) or (isinstance(value, tuple) and depth > 0):
        plain = len(value) > 0 and all(isinstance(v, (int, float, list)) for v in value)
        if plain:
            try:
                array = np.asarray(value)
            except ValueError:  # lists of different lengths
                return None
            return array if array.dtype.kind in "biuf" else None
        return None
    if hasattr(value, "__array_interface__") or (hasattr(value, "__array__") and hasattr(value, "size")):
        array = np.asarray(value)
        return array if array.dtype.kind in "biuf" else None
    return None


def array_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor as an array that may share its memory; types that NumPy does not know become float32."""
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.dtype is torch.bfloat16 or (tensor.is_floating_point() and tensor.dtype.itemsize < 2):
        tensor = tensor.float()
    return np.asarray(tensor.resolve_conj().cpu().numpy())


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (list, tuple)):
        return [(str(i), item) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    if hasattr(value, "to_dict") and not isinstance(value, type):  # graph data and data-frame rows
        as_dict = value.to_dict()
        return _items(as_dict) if isinstance(as_dict, Mapping) else []
    if hasattr(value, "__dict__") and not callable(value):
        return [(name, item) for name, item in vars(value).items() if not name.startswith("_")]
    return []


@dataclass(frozen=True)
class Roles:
    """Paths of the leaves that make up the input, and of the label (a single number or text) if there is one."""

    inputs: tuple[str, ...]
    label: str | None
    ignored: tuple[str, ...] = ()
    """Leaves that only number the samples."""


def roles(samples: Sequence[Any], unstable: frozenset[str] = frozenset(), *, pairs: bool) -> Roles:
    """Tell inputs from labels and running numbers by looking at some samples of one loader.

    `unstable` are the paths that change when the same sample is read again. `pairs`: the set-up has a loss_fn, so a
    sample of two is (input, target) whatever the target looks like.
    """
    rows = [leaves(sample) for sample in samples]
    first = rows[0]
    target = _target(samples[0], first, pairs=pairs)
    label = next((p for p in target if _size(first[p]) == 1 or isinstance(first[p], str)), None)
    inputs = [path for path in first if path not in target]
    if not inputs or (not _rich(first, inputs) and _rich(first, target)):
        # Nothing but the target is there to compare, as where an image is made from its class.
        inputs = list(first)
    steady = [path for path in inputs if path not in unstable]
    if steady and max(_size(first[p]) for p in steady) >= max(_size(first[p]) for p in inputs):
        inputs = steady
    numbering = [path for path in inputs if _numbers_samples(rows, path)]
    if any(not isinstance(first[p], str) and _size(first[p]) > 1 for p in inputs if p not in numbering):
        inputs = [path for path in inputs if path not in numbering]
    else:
        numbering = []
    return Roles(tuple(inputs), label if label not in inputs else None, tuple(numbering))


def _target(sample: Any, first: dict[str, Leaf], *, pairs: bool) -> list[str]:
    if isinstance(sample, Mapping):
        return [path for path in first if path.partition(".")[0].lower() in TARGET_NAMES]
    if isinstance(sample, (list, tuple)) and len(sample) == 2:
        second = [path for path in first if path == "1" or path.startswith("1.")]
        if pairs or (len(second) == 1 and _size(first[second[0]]) == 1):
            return second
    return []


def _size(leaf: Leaf) -> int:
    return len(leaf) if isinstance(leaf, str) else leaf.size


def _rich(first: dict[str, Leaf], paths: Sequence[str]) -> bool:
    return any(_size(first[path]) > 1 for path in paths)


def _numbers_samples(rows: list[dict[str, Leaf]], path: str) -> bool:
    """Whether a single whole number or word is different in every sample, as an index, a name or a path is."""
    seen: set[Any] = set()
    for row in rows:
        value = row.get(path)
        if isinstance(value, str) and not any(character.isspace() for character in value):
            seen.add(value)
        elif isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iu":
            seen.add(int(value))
        else:
            return False
    return len(rows) >= 20 and len(seen) == len(rows)
