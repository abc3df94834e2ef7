"""Scores of classes that cannot do what a softmax needs: that are bounded, or distances, as the graph behind them shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from stabcheck.trial.autograd_graph import nodes_behind
from stabcheck.trial.loss_contract import origins
from stabcheck.trial.loss_contract.fault import Fault, shape
from stabcheck.trial.loss_contract.watch import LossCall

SCALES = ("Mul", "Div", "Neg", "ToCopy")
PRODUCTS = ("Mm", "Linear", "Bmm", "Matmul")
REDUCTIONS = ("Sum", "Cdist", "EuclideanDist", "LinalgVectorNorm", "Norm", "Mean")
SAME = 1e-3
"""Relative differences between lengths that rounding makes."""
SHARE = 0.1
"""Share of the loss of a guess below which bounded scores cannot get, and which is worth a finding: cosines times 16, as they are
used, leave 1e-13 of it, cosines as they are 0.18 for 2 classes and 0.58 for 100."""


def of_call(call: LossCall) -> Iterator[Fault]:
    """What is wrong with the scores that a softmax loss is given."""
    if call.name not in {"cross_entropy", "log_softmax"} or not call.input.requires_grad or call.input.dim() != 2:
        return
    factor, node = _unscaled(call.input)
    if node is None or factor is None:
        return
    if origins.kind(node) in PRODUCTS:
        yield from _bounded(call, factor, node)
    elif factor > 0 and _is_distance(node):
        yield Fault("distance-as-score", call.place, {"loss": call.name, "shape": shape(call.input)})


def _unscaled(tensor: torch.Tensor) -> tuple[float | None, Any]:
    """(constant factor, node behind it); None as the factor if it is not one known number."""
    factor = 1.0
    node = tensor.grad_fn
    while node is not None:
        name = origins.kind(node)
        if name in SCALES:
            if name == "Neg":
                factor = -factor
            elif name in {"Mul", "Div"}:
                number = _scalar(node)
                if number is None or not number:
                    return None, node
                factor = factor * number if name == "Mul" else factor / number
        elif name not in origins.VIEWS:
            break
        node = node.next_functions[0][0] or (node.next_functions[1][0] if len(node.next_functions) > 1 else None)
    return factor, node


def _scalar(node: Any) -> float | None:
    """The number that a node multiplies with or divides by; None if it is no number, or one that is trained."""
    if sum(parent is not None for parent, _ in node.next_functions) != 1:
        return None
    for name in ("_saved_other", "_saved_self"):
        try:
            value = getattr(node, name)
        except (AttributeError, RuntimeError):
            continue
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                continue
            value = value.item()
        if isinstance(value, (int, float)):
            return float(value)
    return None


# --- cosines


def _bounded(call: LossCall, factor: float, node: Any) -> Iterator[Fault]:
    try:
        rows, columns = node._saved_self, node._saved_mat2
    except (AttributeError, RuntimeError):
        return
    if not all(isinstance(t, torch.Tensor) and t.dim() == 2 for t in (rows, columns)):
        return
    if not _owns_classes(columns, call.input.shape[1]):
        return  # in a batch of pairs the temperature is a matter of taste
    lengths = _lengths(rows, 1), _lengths(columns, 0)
    if None in lengths or call.input.shape[0] < 2 or not (_is_fixed(rows, 1) and _is_fixed(columns, 0)):
        return
    reach = abs(factor) * lengths[0] * lengths[1]  # type: ignore[operator]
    classes = call.input.shape[1]
    lowest, guess = math.log1p((classes - 1) * math.exp(-2 * reach)), math.log(classes)
    if classes > 1 and lowest > SHARE * guess:
        facts = {"loss": call.name, "shape": shape(call.input), "reach": reach, "lowest": lowest, "guess": guess}
        yield Fault("bounded-scores", call.place, facts | {"classes": classes})


def _lengths(tensor: torch.Tensor, axis: int) -> float | None:
    """The length that all vectors along an axis have in common; None if they differ, or are single numbers."""
    lengths = tensor.detach().float().norm(dim=axis)
    mean = float(lengths.mean())
    alike = tensor.shape[axis] > 1 and mean > 0 and float((lengths - mean).abs().max()) <= SAME * mean
    return mean if alike else None


def _owns_classes(columns: torch.Tensor, classes: int) -> bool:
    """Whether one parameter alone, with a vector for each class, is behind them."""
    leaves = [n.variable for n in nodes_behind(columns) if hasattr(n, "variable")]
    if isinstance(columns, nn.Parameter):
        leaves.append(columns)
    return len(leaves) == 1 and leaves[0].dim() == 2 and classes in leaves[0].shape


def _is_fixed(tensor: torch.Tensor, axis: int) -> bool:
    """Whether no weight changes the lengths, which are alike by construction then, and not by the start that was drawn."""
    leaves = [n.variable for n in nodes_behind(tensor) if hasattr(n, "variable")]
    if not leaves or tensor.grad_fn is None:
        return False
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
    try:
        whole = torch.autograd.grad(tensor, leaves, noise, retain_graph=True, allow_unused=True)
        length = torch.autograd.grad(tensor, leaves, tensor.detach(), retain_graph=True, allow_unused=True)
    except RuntimeError:
        return False
    sizes = [max((float(g.abs().max()) for g in gs if g is not None), default=0.0) for gs in (whole, length)]
    return sizes[1] <= SAME * sizes[0]


# --- distances


def _is_distance(node: Any) -> bool:
    """Whether it is the length, or its square, of a difference of two things that the model made from the batch."""
    name = origins.kind(node)
    if name == "Sqrt":
        node = node.next_functions[0][0]
        name = origins.kind(node)
    if name not in REDUCTIONS:
        return False
    sides: list[Any] = [parent for parent, _ in node.next_functions if parent is not None]
    if name in {"Sum", "Mean"}:
        square: Any = sides[0] if sides else None
        if origins.kind(square) == "Pow":
            sides = [square.next_functions[0][0]] if getattr(square, "_saved_exponent", None) == 2 else []
        elif origins.kind(square) == "Mul":
            pair = {parent for parent, _ in square.next_functions}
            sides = list(pair) if len(pair) == 1 else []
        else:
            return False
    if name in {"Sum", "Mean", "LinalgVectorNorm", "Norm"}:
        if len(sides) != 1 or origins.kind(sides[0]) != "Sub":
            return False
        sides = [parent for parent, _ in sides[0].next_functions if parent is not None]
    return len(sides) == 2 and all(_is_computed(side) for side in sides)


def _is_computed(node: Any) -> bool:
    """Whether it is more than a weight that was brought to another shape: prototypes that are weights themselves may as well
    learn to lie far away."""
    while node is not None and origins.kind(node) in origins.VIEWS:
        node = node.next_functions[0][0]
    return node is not None and not hasattr(node, "variable")
