"""Norms that are right for every kind of tensor: half precision, sparse, sharded."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The stored values of a sparse tensor, the tensor itself otherwise, detached."""
    tensor = tensor.detach()
    return tensor.coalesce().values() if tensor.layout != torch.strided else tensor


def norm(tensor: torch.Tensor) -> torch.Tensor:
    """L2 norm as a float32 scalar on the tensor's device; complete for a sharded (DTensor) one.

    float32 because a half-precision sum of squares overflows above a norm of 256.
    """
    values = torch.view_as_real(t) if (t := dense(tensor)).is_complex() else t
    wide = torch.promote_types(values.dtype, torch.float32)
    value = torch.linalg.vector_norm(values, dtype=wide).float()
    full = getattr(value, "full_tensor", None)
    return full() if full is not None else value  # type: ignore[no-any-return]


def norms(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """`norm` of each; fused where all are plain float32."""
    if tensors and all(type(t) in _PLAIN and t.layout == torch.strided and t.dtype == torch.float32 for t in tensors):
        return list(torch._foreach_norm([t.detach() for t in tensors]))
    return [norm(t) for t in tensors]


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def numbers(values: Sequence[torch.Tensor | None]) -> list[float | None]:
    """Scalar tensors as floats, with one transfer for each device."""
    found: list[float | None] = [None] * len(values)
    by_device: dict[torch.device, list[int]] = {}
    for index, value in enumerate(values):
        if value is not None:
            by_device.setdefault(value.device, []).append(index)
    for indices in by_device.values():
        stacked = torch.stack([values[i].float() for i in indices]).tolist()  # type: ignore[union-attr]
        for index, number in zip(indices, stacked, strict=True):
            found[index] = number
    return found
