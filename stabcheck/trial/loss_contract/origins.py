"""Where a tensor comes from, by the autograd graph: the operation that made it, looked at through reshapes and copies."""

from __future__ import annotations

import re
from typing import Any

import torch

from stabcheck.trial.autograd_graph import nodes_behind

VIEWS = {
    "View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Squeeze", "Unsqueeze", "Slice", "Select", "Index",
    "Clone", "ToCopy", "Alias", "Split", "SplitWithSizes", "Unbind", "MaskedSelect", "IndexSelect",
}  # fmt: skip
"""Operations that move values without changing them."""
MOVES_AXES = {"Transpose", "T", "Permute"}
SCORES = {
    "Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "MkldnnLinear", "Convolution", "NativeBatchNorm", "CudnnBatchNorm",
    "NativeLayerNorm", "NativeGroupNorm", "Relu", "Gelu", "Silu", "Tanh", "LeakyRelu", "Elu", "NativeDropout",
}  # fmt: skip
"""Operations whose results are scores of any size, and no logarithms of probabilities."""


def kind(node: Any) -> str:
    """The operation of a node, as "Softmax" for SoftmaxBackward0; "" for none."""
    return re.sub(r"Backward\d*$", "", node.name()) if node is not None else ""


def origin(tensor: torch.Tensor) -> tuple[str, Any, bool]:
    """(operation, its node, whether axes were moved since) of what made the tensor's values."""
    return _through(tensor.grad_fn)


def before(node: Any) -> tuple[str, Any, bool]:
    """The same of what the node was given as its first argument."""
    return _through(node.next_functions[0][0] if node is not None and node.next_functions else None)


def _through(node: Any) -> tuple[str, Any, bool]:
    moved = False
    while node is not None and kind(node) in VIEWS:
        moved = moved or kind(node) in MOVES_AXES
        node = node.next_functions[0][0]
    return kind(node), node, moved


def softmax_axis(node: Any) -> tuple[int, tuple[int, ...]] | None:
    """(axis, shape) of a softmax or log_softmax; None if its graph is gone."""
    try:
        axis, shape = int(node._saved_dim), tuple(node._saved_result.shape)
    except (AttributeError, RuntimeError):
        return None
    if axis >= 2**63:  # a negative axis as the unsigned number that it is kept in
        axis -= 2**64
    return axis % max(len(shape), 1), shape


KNOWN = re.compile(r"Backward\d+$|AccumulateGrad$")
"""PyTorch's own nodes; a function that somebody has written may normalise."""


def is_without_logarithm(tensor: torch.Tensor) -> bool:
    """Whether there is no logarithm, nor what may contain one, in all that a tensor was made by."""
    nodes = list(nodes_behind(tensor))
    return bool(nodes) and all(KNOWN.search(n.name()) and not re.search("log|softplus", n.name(), re.I) for n in nodes)


def sums_to_one(values: torch.Tensor, axis: int) -> bool:
    """Whether the values are probabilities along an axis of more than one element."""
    values = values.detach().float()
    if values.dim() <= axis or values.shape[axis] < 2 or not values.numel() or float(values.min()) < 0:
        return False
    return bool((values.sum(axis) - 1).abs().max() < TOLERANCE)


def log_sums_to_one(values: torch.Tensor, axis: int) -> bool:
    """Whether the values are logarithms of probabilities along an axis."""
    values = values.detach().float()
    return values.dim() > axis and values.numel() > 0 and bool(values.logsumexp(axis).abs().max() < LOG_TOLERANCE)


TOLERANCE = 1e-4
"""Rounding of a sum of probabilities in float32; rows of scores are farther from 1 by chance, sample after sample."""
LOG_TOLERANCE = 2e-2
"""The same for logarithms in half precision, and for a small number added before the logarithm."""
