"""What lies between the layers of a model: one forward, read function by function.

Each tensor that came from a layer is known by that layer for as long as only affine functions with nothing else from
the data touch it. A function that is not on the list counts as non-linear: then nothing is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stabcheck.trial import batches
from stabcheck.trial.affine.bends import is_straight
from stabcheck.trial.call_watch import CallWatch, argument

LAYERS = {
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "addmm", "matmul",
    "__matmul__", "mm",
}  # fmt: skip
_SHAPES = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "moveaxis", "t", "squeeze",
    "unsqueeze", "contiguous", "__getitem__", "chunk", "split", "unbind", "narrow", "expand", "expand_as", "repeat", "roll",
    "flip", "pad", "to", "float", "half", "bfloat16", "double", "clone", "type", "type_as", "view_as", "reshape_as", "select",
    "index_select", "requires_grad_", "retain_grad", "__get__",
}  # fmt: skip
_MAPS = {
    "neg", "__neg__", "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "mean", "sum", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "batch_norm", "identity",
}  # fmt: skip
_SUMS = {
    "add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub",
}  # fmt: skip
_SCALINGS = {
    "mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "__truediv__", "__itruediv__", "true_divide",
}  # fmt: skip
_NO_VALUE = {
    "__len__", "size", "dim", "numel", "stride", "is_floating_point", "is_contiguous", "element_size", "__repr__", "isnan",
    "isfinite", "isinf", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_empty", "new_full", "new_tensor",
}  # fmt: skip
_ROWS = {"index_add", "index_add_", "scatter_add", "scatter_add_", "gather", "index_copy", "index_copy_", "__setitem__"}
"""What hands rows on to other rows, as message passing along edges does; sums of them are affine as well."""
_LOOKUPS = {"embedding", "embedding_bag"}
_CATS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}
_ACTIVATIONS = {
    name for name in dir(torch.nn.functional) if name.rstrip("_") in {
        "relu", "relu6", "gelu", "silu", "elu", "selu", "celu", "leaky_relu", "prelu", "rrelu", "mish", "softplus", "softsign",
        "tanh", "sigmoid", "hardtanh", "hardswish", "hardsigmoid", "glu", "logsigmoid", "tanhshrink", "softshrink", "hardshrink",
        "threshold", "_threshold",
    }
} | {"tanh_", "sigmoid_"}  # fmt: skip


@dataclass
class Layer:
    """One call of a layer."""

    index: int
    raw: tuple[int, ...]
    """Its places among all calls of functions that may be layers: more than one if it is called again on the same input."""
    module: str
    name: str
    """Path of the module, or of the weight where the module holds it under a name of its own."""
    inputs: int
    """Numbers that make one output: the fan-in."""
    outputs: int
    factored: bool
    """A grouped or one-sided convolution, one factor of a cheaper map by design."""
    weight: int
    """`id` of the weight."""
    before: int | None
    """The layer that its input comes from with nothing but affine functions between."""
    after_nonlinear: bool
    """Whether another layer and something non-linear come before it."""
    data: int = 0
    """`id` of what it reads."""
    is_conv: bool = False
    discarded: str = ""
    """An activation that was called on its output, and whose result nothing reads."""
    straight: str = ""
    """An activation that was called on its output, and that does not bend."""
    consumers: set[int | None] = field(default_factory=set)
    """Layers that read its output through affine functions alone; None for everything else that does."""


@dataclass
class _State:
    source: int | None
    has_layer: bool
    deep: bool


class Tape(CallWatch):
    """The layers that one forward calls, in order."""

    def __init__(self, model: nn.Module, batch: Any) -> None:
        super().__init__(model)
        self.layers: list[Layer] = []
        self.differentiates = False
        """Whether gradients are taken on the way to the loss."""
        self._raw = -1
        self._called: Any = None
        self._states: dict[int, _State] = {}
        self._alive: list[Any] = []
        self._pending: dict[int, tuple[int, str]] = {}
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        for tensor in batches.tensors(batch):
            self._set(tensor, _State(None, has_layer=False, deep=False))

    def finished(self) -> list[Layer]:
        """The layers, once the loss is there. An activation's result that nothing read is put down as discarded."""
        for index, name in self._pending.values():
            self.layers[index].discarded = name
        return self.layers

    def _set(self, tensor: torch.Tensor, state: _State) -> None:
        self._states[id(tensor)] = state
        self._alive.append(tensor)

    def answer(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """What it is without a watch."""
        self._called = func
        return super().answer(name, func, args, kwargs)

    def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Follow one call."""
        self.differentiates |= name == "grad"
        if name in _NO_VALUE:
            return
        known = [(t, s) for t in batches.tensors((args, kwargs)) if (s := self._states.get(id(t))) is not None]
        for tensor, _ in known:
            if (read := self._pending.pop(id(tensor), None)) is not None:
                self.layers[read[0]].consumers.add(None)
        if name in LAYERS:
            self._raw += 1
            if self._layer(name, args, kwargs, out) or self._mixed(name, args, kwargs, out):
                return
        if not known:
            return
        state = self._through(name, args, kwargs, [s for _, s in known])
        if state.source is None and len(known) == 1 and known[0][1].source is not None:
            state = self._straight(name, args, kwargs, out, known[0]) or state
        outputs = list(batches.tensors(out))
        if state.source is None:
            for _, before in known:
                if before.source is not None and not self._is_activation(name, before, outputs):
                    self.layers[before.source].consumers.add(None)
        if name == "__setitem__" or kwargs.get("inplace") or (name.endswith("_") and not name.endswith("__")):
            outputs += [known[0][0], *([] if known[0][0]._base is None else [known[0][0]._base])]
        for tensor in outputs:
            self._set(tensor, state)

    def _is_activation(self, name: str, before: _State, outputs: list[torch.Tensor]) -> bool:
        """Whether this is an activation function: it reads the layer as it should, unless nothing reads its result."""
        assert before.source is not None
        if name not in _ACTIVATIONS or len(outputs) != 1 or id(outputs[0]) in self._states:
            return False
        self._pending[id(outputs[0])] = (before.source, name)
        return True

    def _through(self, name: str, args: Any, kwargs: Any, states: list[_State]) -> _State:
        """The state of what a function that is no layer gives."""
        has_layer, deep = any(s.has_layer for s in states), any(s.deep for s in states)
        source = states[0].source if len({s.source for s in states}) == 1 else None
        if name in _LOOKUPS or name in _CATS or name in _SUMS:
            return _State(source, has_layer, deep)
        if name in _ROWS or (len(states) > 1 and (name in _SHAPES or name in _SCALINGS)):
            source = self._of_rows(name, args, kwargs)
            if source is not None:
                return _State(source, has_layer, deep)
        divides_by_it = "div" in name and args and id(args[0]) not in self._states
        if len(states) == 1 and (name in _SHAPES or name in _MAPS or (name in _SCALINGS and not divides_by_it)):
            return _State(source, has_layer, deep)
        return _State(None, has_layer, deep or has_layer or _has_weights(args, kwargs))

    def _straight(
        self, name: str, args: Any, kwargs: Any, out: Any, known: tuple[torch.Tensor, _State]
    ) -> _State | None:
        """The state that is handed on by a function that is on no list, and affine all the same."""
        tensor, state = known
        if state.source is None or not (args and args[0] is tensor) or not is_straight(self._called, args, kwargs, out):
            return None
        if name in _ACTIVATIONS:
            self.layers[state.source].straight = name.strip("_")
        return state

    def _of_rows(self, name: str, args: Any, kwargs: Any) -> int | None:
        """The one layer whose rows (its last axis whole) are chosen by indices from the data, summed up, or scaled by numbers
        from the data that are one for each row: this does the same to all its units, so it can be done before the layer."""
        found: set[int | None] = set()
        for tensor in batches.tensors((args, kwargs)):
            state = self._states.get(id(tensor))
            if state is None:
                continue
            if state.source is not None:
                found.add(state.source)
            elif state.has_layer or not self._is_of_rows(name, tensor):
                return None
        divided = (
            "div" in name and self._states.get(id(args[0])) is not None and self._states[id(args[0])].source is None
        )
        source = found.pop() if len(found) == 1 else None
        # Convolutions mix the places that such numbers tell apart.
        return source if source is not None and not divided and not self.layers[source].is_conv else None

    @staticmethod
    def _is_of_rows(name: str, tensor: torch.Tensor) -> bool:
        if name in _SCALINGS:
            return tensor.dim() == 0 or tensor.shape[-1] == 1
        return not tensor.is_floating_point()

    def _layer(self, name: str, args: Any, kwargs: Any, out: Any) -> bool:
        """Put down a call of a layer; False if it multiplies two things that both come from the data, or neither."""
        data, weight = operands(name, args, kwargs)
        if not (isinstance(data, torch.Tensor) and isinstance(weight, torch.Tensor) and isinstance(out, torch.Tensor)):
            return False
        state = self._states.get(id(data))
        if state is None and not data.requires_grad:  # noise, or data that came in another way
            state = _State(None, has_layer=False, deep=False)
        if state is None or id(weight) in self._states or not (weight.requires_grad and weight.dim() > 1):
            return False
        base = weight if weight._base is None else weight._base
        again = next((one for one in self.layers if one.weight == id(base) and one.data == id(data)), None)
        if again is not None:
            again.raw = (*again.raw, self._raw)
            self._set(out, _State(again.index, has_layer=True, deep=state.deep))
            return True
        inputs, outputs, factored = _sizes(name, weight, args, kwargs)
        self.layers.append(
            Layer(
                len(self.layers), (self._raw,), self.module, self._name(base), inputs, outputs, factored, id(base),
                state.source, state.deep, id(data), "conv" in name,
            )
        )  # fmt: skip
        self._alive += [base, data]
        if state.source is not None:
            self.layers[state.source].consumers.add(len(self.layers) - 1)
        self._set(out, _State(len(self.layers) - 1, has_layer=True, deep=state.deep))
        return True

    def _name(self, weight: torch.Tensor) -> str:
        """Where the weight is written: the module alone, if it is its `weight` or made from others."""
        path, _, key = self._parameters.get(id(weight), "").rpartition(".")
        if key in {"", "weight"}:
            return self.module or path
        return f"{path}.{key}" if path else key

    def _mixed(self, name: str, args: Any, kwargs: Any, out: Any) -> bool:
        """Whether this mixes the rows of a layer's output by a given matrix, as graph convolutions do: affine as well."""
        matrix, data = operands(name, args, kwargs)
        if not isinstance(matrix, torch.Tensor) or not isinstance(out, torch.Tensor) or matrix.requires_grad:
            return False
        mixes, state = self._states.get(id(matrix)), self._states.get(id(data))
        if state is None or state.source is None or (mixes is not None and mixes.has_layer):
            return False
        self._set(out, state)
        return True


def operands(name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """(data, weight) of a call of one of LAYERS."""
    if name == "addmm":
        return argument(args, kwargs, 1, "mat1"), argument(args, kwargs, 2, "mat2")
    keys = ("input", "weight") if name == "linear" or "conv" in name else ("input", "other")
    return argument(args, kwargs, 0, keys[0]), argument(args, kwargs, 1, keys[1])


def _has_weights(args: Any, kwargs: Any) -> bool:
    return any(isinstance(t, nn.Parameter) and t.dim() > 1 for t in batches.tensors((args, kwargs)))


def _sizes(name: str, weight: torch.Tensor, args: Any, kwargs: Any) -> tuple[int, int, bool]:
    """(fan-in, outputs, whether it is one factor by design) of a layer."""
    shape = tuple(weight.shape)
    if name == "linear":
        return shape[1], shape[0], False
    if "conv" not in name:
        return shape[-2], shape[-1], False
    transposed = "transpose" in name
    groups = argument(args, kwargs, 6, "groups") or 1
    factored = groups > 1 or len(set(shape[2:])) > 1
    return (shape[0], shape[1] * groups, factored) if transposed else (weight[0].numel(), shape[0], factored)
