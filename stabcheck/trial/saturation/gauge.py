"""One forward, read at every call of sigmoid, tanh, softmax and attention."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.trial import batches
from stabcheck.trial.call_watch import CallWatch, argument

LOSSES = {"cross_entropy", "binary_cross_entropy_with_logits"}
"""Losses that squash what they get by themselves."""
SQUASHING = {"tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid"}
FLAT = 0.01
"""A unit is saturated where its slope is below this share of the steepest: |tanh| > 0.995, a sigmoid beyond 0.0025 and
0.9975, a softmax that gives more than 0.995 to one of several."""
EITHER = 0.1
"""Share of the units that must be on the rarer side for both to count."""
_MASKED = -1e4
"""A logit below this stands for minus infinity: masks are written as -1e4, -1e9 or the smallest number of the type."""
_KEEPS_SCORES = {
    "div", "div_", "__truediv__", "mul", "mul_", "__mul__", "__rmul__", "add", "add_", "__add__", "__radd__", "sub",
    "__sub__", "masked_fill", "masked_fill_", "where", "float", "to", "type_as", "dropout", "clamp", "contiguous", "tril",
}  # fmt: skip


@dataclass
class Gauge:
    """What one function got in one module; several calls are counted together."""

    module: str
    kind: str
    saturated: float
    """Share of the units, or of the rows of a softmax, that are up against their stops."""
    size: float
    """Root mean square of the input; for a softmax the standard deviation of its logits."""
    masked: float = 0.0
    """Share of the rows of attention in which every key is masked."""
    is_of_both_signs: bool = False
    """Whether units are up against either stop, as by the scale of what comes in; gates that start shut are at one."""


@dataclass(frozen=True)
class WrongAxis:
    """Attention weights that do not sum to one over what they mix."""

    module: str
    axis: int
    axes: int
    lowest: float
    highest: float
    """Smallest and largest sum of the weights with which one position mixes the others."""

    @property
    def is_foreign(self) -> bool:
        """Whether the axis is neither that of the queries nor that of the keys: the batch or the heads."""
        return self.axis < self.axes - 2


class GaugeWatch(CallWatch):
    """Reads every call; numbers only, nothing is kept of the activations."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.gauges: dict[tuple[str, str], Gauge] = {}
        self.wrong: list[WrongAxis] = []
        self._scores: dict[int, torch.Tensor] = {}
        self._weights: dict[int, tuple[torch.Tensor, int]] = {}

    def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Read one call."""
        kind = name.rstrip("_")
        if not isinstance(out, torch.Tensor):
            if name == "multi_head_attention_forward":
                logits = multi_head_logits(args, kwargs)
                if logits is not None:
                    self._put("attention", *_of_rows(logits))
            return
        if kind in SQUASHING:
            given = argument(args, kwargs, 0, "input")
            # In place, the input is gone: it is read back from the output.
            self._put(kind, _flat_share(kind, out), _size(given, out, kind), both=_reaches_both(kind, out))
        elif kind == "softmax":
            self._softmax(args, kwargs, out)
        elif kind in LOSSES:
            self._loss(kind, argument(args, kwargs, 0, "input"))
        elif name == "scaled_dot_product_attention":
            self._attention(args, kwargs)
        elif name in {"matmul", "__matmul__", "bmm", "baddbmm", "einsum"}:
            self._product(name, args, out)
        elif name in _KEEPS_SCORES:
            self._pass_on(args, kwargs, out)

    def _put(self, kind: str, saturated: float, size: float, masked: float = 0.0, *, both: bool = False) -> None:
        before = self.gauges.get((self.module, kind))
        if before is None or saturated > before.saturated:
            self.gauges[(self.module, kind)] = Gauge(self.module, kind, saturated, size, masked, both)

    def _softmax(self, args: Any, kwargs: Any, out: torch.Tensor) -> None:
        logits, dim = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "dim")
        if not isinstance(logits, torch.Tensor) or out.dim() < 2:
            return
        if dim is None:  # what PyTorch then takes
            dim = 0 if out.dim() in {0, 1, 3} else 1
        dim %= out.dim()
        is_attention = id(logits) in self._scores
        if out.shape[dim] > 1:
            self._put("attention" if is_attention else "softmax", *_of_rows(logits.detach().movedim(dim, -1)))
        if is_attention:
            self._weights[id(out)] = (out, dim)

    def _loss(self, kind: str, logits: torch.Tensor) -> None:
        if kind != "cross_entropy":
            self._put(kind, _flat_share("sigmoid", logits.detach().float().sigmoid()), _size(logits, logits, kind))
        elif logits.dim() > 1 and logits.shape[1] > 1:
            self._put(kind, *_of_rows(logits.detach().movedim(1, -1)))

    def _attention(self, args: Any, kwargs: Any) -> None:
        query, key, mask = (argument(args, kwargs, i, k) for i, k in ((0, "query"), (1, "key"), (3, "attn_mask")))
        if query.shape[:-2] != key.shape[:-2] or query.shape[-2] * key.shape[-2] * query.shape[0] > 4_000_000:
            return
        scale = argument(args, kwargs, 6, "scale") or query.shape[-1] ** -0.5
        logits = query.detach().float() @ key.detach().float().transpose(-2, -1) * scale
        if argument(args, kwargs, 5, "is_causal"):
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        if isinstance(mask, torch.Tensor):
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        self._put("attention", *_of_rows(logits))

    def _product(self, name: str, args: Any, out: torch.Tensor) -> None:
        tensors = list(batches.tensors(args))
        for place, tensor in enumerate(tensors[:2]):
            found = self._weights.get(id(tensor))
            if found is not None and name != "einsum":
                self._judge_axis(*found, contracted=tensor.dim() - 1 - place)
        if len(tensors) == 2 and all(t.requires_grad and not isinstance(t, nn.Parameter) for t in tensors):
            self._scores[id(out)] = out

    def _judge_axis(self, weights: torch.Tensor, axis: int, contracted: int) -> None:
        if axis == contracted or weights.shape[contracted] < 2 or weights.shape[axis] < 2:
            return
        sums = weights.detach().float().sum(contracted)
        if float((sums - 1).abs().max()) < FLAT:  # normalised again over the keys, as in slot attention
            return
        self.wrong.append(WrongAxis(self.module, axis, weights.dim(), float(sums.min()), float(sums.max())))

    def _pass_on(self, args: Any, kwargs: Any, out: torch.Tensor) -> None:
        for tensor in batches.tensors((args, kwargs)):
            if id(tensor) in self._scores:
                self._scores[id(out)] = out
            elif id(tensor) in self._weights and out.shape == tensor.shape:
                self._weights[id(out)] = (out, self._weights[id(tensor)][1])


def multi_head_logits(args: Any, kwargs: Any) -> torch.Tensor | None:
    """The masked logits (batch times heads, queries, keys) of a call of F.multi_head_attention_forward; None if they are too
    many, or made in another way than from two projections."""
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    query, key, weight, bias, heads = (
        given[k] for k in ("query", "key", "in_proj_weight", "in_proj_bias", "num_heads")
    )
    if query.dim() != 3 or query.shape[0] * key.shape[0] * query.shape[1] * heads > 4_000_000:
        return None
    weights = (given["q_proj_weight"], given["k_proj_weight"]) if weight is None else weight.chunk(3)[:2]
    biases = (None, None) if bias is None else bias.chunk(3)[:2]
    with torch.no_grad():
        sides = [
            F.linear(x, w, b).reshape(x.shape[0], x.shape[1] * heads, -1).transpose(0, 1).float()
            for x, w, b in zip((query, key), weights, biases, strict=True)
        ]
        logits: torch.Tensor = sides[0] @ sides[1].transpose(1, 2) * sides[0].shape[-1] ** -0.5
        padding = given["key_padding_mask"]
        for mask in (given["attn_mask"], None if padding is None else padding[:, None].repeat_interleave(heads, 0)):
            if mask is not None:
                logits = logits.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits


_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def _with_smaller_queries(args: Any, kwargs: Any, divisor: float) -> tuple[Any, Any]:
    """The arguments of such a call with logits that are `divisor` times smaller."""
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    given = bound.arguments
    if given.get("in_proj_weight") is None:
        given["q_proj_weight"] = given["q_proj_weight"] / divisor
    else:
        width = given["in_proj_weight"].shape[0] // 3
        factors = given["in_proj_weight"].new_ones(3 * width)
        factors[:width] /= divisor
        given["in_proj_weight"] = given["in_proj_weight"] * factors[:, None]
    if given.get("in_proj_bias") is not None:
        width = len(given["in_proj_bias"]) // 3
        given["in_proj_bias"] = torch.cat([given["in_proj_bias"][:width] / divisor, given["in_proj_bias"][width:]])
    return bound.args, bound.kwargs


def _flat_share(kind: str, out: torch.Tensor) -> float:
    value = out.detach().float()
    if kind == "sigmoid":
        slope = 4 * value * (1 - value)
    elif kind == "softsign":
        slope = (1 - value.abs()).square()
    elif kind == "hardsigmoid":
        slope = ((value > 0) & (value < 1)).float()
    else:
        slope = 1 - value.square()
    return float((slope < FLAT).float().mean())


def _reaches_both(kind: str, out: torch.Tensor) -> bool:
    """Whether a tenth of the units or more are on either side of the middle."""
    above = float((out.detach().float() > (0.5 if kind in {"sigmoid", "hardsigmoid"} else 0.0)).float().mean())
    return min(above, 1 - above) > EITHER


def _size(given: Any, out: torch.Tensor, kind: str) -> float:
    if given is out:
        value = out.detach().double()
        given = value.logit(1e-7) if kind == "sigmoid" else value.clamp(-1 + 1e-7, 1 - 1e-7).atanh()
    return float(given.detach().float().square().mean().sqrt())


def _of_rows(logits: torch.Tensor) -> tuple[float, float, float]:
    """(saturated share, standard deviation, share that is wholly masked) over rows with at least two keys to choose from."""
    rows = logits.detach().float().reshape(-1, logits.shape[-1])
    open_keys = (rows > _MASKED).sum(-1)
    masked = float((open_keys == 0).float().mean())
    rows = rows[open_keys > 1]
    if not len(rows):
        return 0.0, 0.0, masked
    shown = rows > _MASKED
    centred = torch.where(
        shown, rows - (rows * shown).nan_to_num(0.0, 0.0, 0.0).sum(-1, True) / shown.sum(-1, True), 0.0
    )
    deviation = float((centred.square().sum() / shown.sum()).sqrt())
    return float((rows.softmax(-1).amax(-1) > 1 - FLAT / 2).float().mean()), deviation, masked


class Softened(CallWatch):
    """Divides what the chosen functions get, by (module, kind)."""

    def __init__(self, model: nn.Module, divisors: dict[tuple[str, str], float]) -> None:
        super().__init__(model)
        self.divisors = divisors

    def answer(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """The same function of a smaller input."""
        kind = name.rstrip("_")
        if kind in SQUASHING or kind in LOSSES or kind == "softmax":
            divisor = self.divisors.get((self.module, kind)) or (
                self.divisors.get((self.module, "attention")) if kind == "softmax" else None
            )
            if divisor and args and isinstance(args[0], torch.Tensor):
                in_place = name.endswith("_") or kwargs.get("inplace")
                smaller = args[0].div_(divisor) if in_place else args[0] / divisor
                return super().answer(name, func, (smaller, *args[1:]), kwargs)
        elif name == "multi_head_attention_forward" and (divisor := self.divisors.get((self.module, "attention"))):
            return super().answer(name, func, *_with_smaller_queries(args, kwargs, divisor))
        elif name == "scaled_dot_product_attention" and (divisor := self.divisors.get((self.module, "attention"))):
            return super().answer(name, func, (args[0] / divisor, *args[1:]), kwargs)
        return super().answer(name, func, args, kwargs)
