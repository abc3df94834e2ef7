"""Probes that are put into the model for one step and taken out again: signals and rectifiers.

Both reduce to numbers inside the hook. A stored activation would be overwritten by a following in-place
operation, and would keep the graph alive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from stabcheck.trial.batches import tensors
from stabcheck.trial.norms import norm
from stabcheck.userland import passed_on

_ROUNDINGS = 4
"""Times the rounding of its type by which equal rows differ from their computed mean."""
_CHANNELS_FIRST = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")


def own_parameters(module: nn.Module) -> bool:
    """Whether the module holds parameters itself, not only in its children."""
    return next(iter(module.parameters(recurse=False)), None) is not None


@dataclass
class SignalReading:
    """One leaf module in one step; scalars stay on the device."""

    module: str
    kind: str
    out_rms: torch.Tensor | None = None
    variance_share: torch.Tensor | None = None
    grad_squares: list[torch.Tensor] = field(default_factory=list)
    by_call: dict[int, torch.Tensor] = field(default_factory=dict)
    """Call -> the square of the norm of dLoss/d(its first output), where the module is called again and again."""
    calls: int = 0


class SignalProbe:
    """Forward and activation-gradient statistics of every leaf module with parameters.

    A module counts as a leaf if no other module with parameters ran inside it: nn.MultiheadAttention is
    one, because its child is used through a functional call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.readings: dict[str, SignalReading] = {}
        self.called: set[str] = set()
        self.called_now: list[str] = []

    @contextlib.contextmanager
    def inserted(self) -> Iterator[dict[str, SignalReading]]:
        """Observe one step; the readings are in the order in which the modules first finished."""
        self.readings, self.called_now = {}, []
        handles: list[RemovableHandle] = []
        for name, module in self.model.named_modules():
            if not own_parameters(module):
                continue
            inside: list[int] = []
            handles.append(module.register_forward_pre_hook(self._marker(inside)))
            handles.append(module.register_forward_hook(self._reader(name, type(module).__name__, inside)))
        try:
            yield self.readings
        finally:
            for handle in handles:
                handle.remove()
            self.called.update(self.called_now)

    def _marker(self, inside: list[int]) -> Any:
        return lambda module, args: inside.append(len(self.called_now))

    def _reader(self, name: str, kind: str, inside: list[int]) -> Any:
        def read(module: nn.Module, args: Any, output: Any) -> None:
            before = inside.pop() if inside else len(self.called_now)
            is_leaf = len(self.called_now) == before
            self.called_now.append(name)
            if not is_leaf or not torch.is_grad_enabled():
                return
            floats = [t for t in tensors(output) if t.is_floating_point() and t.numel()]
            if not floats:
                return
            reading = self.readings.get(name)
            if reading is None:
                reading = self.readings[name] = SignalReading(
                    name, kind, *_forward_statistics(floats[0].detach(), _bias(module))
                )
            call, reading.calls = reading.calls, reading.calls + 1
            for index, tensor in enumerate(floats):
                if tensor.requires_grad:
                    tensor.register_hook(_squaring(reading, None if index else call))

        return read


def _squaring(reading: SignalReading, call: int | None) -> Any:
    def square(grad: torch.Tensor) -> None:
        value = norm(grad).square()
        reading.grad_squares.append(value)
        if call is not None:
            reading.by_call[call] = value

    return square


def _bias(module: nn.Module) -> torch.Tensor | None:
    """What the module adds to its last axis, or to the channels of feature maps, whatever it is given."""
    bias = getattr(module, "bias", None)
    return bias.detach() if isinstance(bias, torch.Tensor) and bias.dim() == 1 else None


def _forward_statistics(out: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """RMS, and the share of the mean square that varies over the first axis (None for a single row).

    The module's own bias is left out of the share: a head whose bias starts at the mean of its targets is not blind.
    """
    rows = out.reshape(out.shape[0], -1).float() if out.dim() > 1 else out.reshape(-1, 1).float()
    squares = torch.linalg.vector_norm(rows).square()
    rms = (squares / rows.numel()).sqrt()
    if rows.shape[0] < 2:
        return rms, None
    varying = torch.linalg.vector_norm(rows - rows.mean(0)).square()
    if bias is not None:
        axis = -1 if out.shape[-1] == len(bias) else 1
        if out.shape[axis] == len(bias):
            made = out.movedim(axis, -1).float() - bias.float()
            rounding = (_ROUNDINGS * torch.finfo(out.dtype).eps) ** 2 * squares
            varying = torch.where(varying > rounding, varying, 0.0)
            squares = torch.minimum(squares, torch.linalg.vector_norm(made).square())
    return rms, varying / squares.clamp_min(torch.finfo(torch.float32).tiny)


@dataclass
class RectifierCall:
    """One rectifying call in one step."""

    module: str
    call: int
    kind: str
    after: str | None
    fired: torch.Tensor
    """Bool per unit: an output above zero somewhere in the batch."""
    node: Any
    """The autograd node of the output."""


class RectifierProbe(TorchFunctionMode):
    """Sees every call of a one-sidedly flat function, module or functional, in place or not; and where none is called, a layer
    that gets just the positive part of what the one before it put out, however that is written."""

    def __init__(self, model: nn.Module, written: dict[tuple[str, str], bool] | None = None) -> None:
        """`written`: pairs of layers -> whether something rectifies between them, as seen in earlier steps."""
        super().__init__()
        self.model = model
        self.calls: list[RectifierCall] = []
        self._written = {} if written is None else written
        self._put_out: torch.Tensor | None = None
        self._between: str | None = None
        self._names = {id(module): name for name, module in model.named_modules()}
        self._running: list[str] = []
        self._last: tuple[str, str] | None = None
        self._count: dict[str, int] = {}

    @contextlib.contextmanager
    def inserted(self) -> Iterator[list[RectifierCall]]:
        """Observe one step."""
        self.calls, self._running, self._last, self._count = [], [], None, {}
        self._put_out = self._between = None
        handles = []
        for module in self.model.modules():
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield self.calls
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        name = self._names.get(id(module), "")
        if self._put_out is not None and own_parameters(module):
            given, put_out, self._put_out = args[0] if args else None, self._put_out, None
            if isinstance(given, torch.Tensor) and self._is_written(name, put_out, given):
                place = self._between if self._between is not None else self._running[-1] if self._running else ""
                self._add(place, "rectifier written by hand", given.detach().reshape(put_out.shape), given.grad_fn)
        self._running.append(name)

    def _is_written(self, name: str, put_out: torch.Tensor, given: torch.Tensor) -> bool:
        pair = (self._last[0] if self._last else "", name)
        if given.numel() != put_out.numel() or not given.requires_grad or not torch.is_grad_enabled():
            return False
        if pair not in self._written:
            is_positive_part = torch.equal(given.detach().reshape(put_out.shape), put_out.clamp(min=0).to(given.dtype))
            self._written[pair] = is_positive_part and bool((put_out < 0).any())
        return self._written[pair]

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._running:
            self._running.pop()
        if own_parameters(module):
            self._last = (self._names.get(id(module), ""), type(module).__name__)
            is_layer = isinstance(output, torch.Tensor) and output.is_floating_point() and output.dim() > 1
            self._put_out, self._between = output.detach() if is_layer else None, None
        elif next(module.children(), None) is None and not isinstance(module, (nn.Flatten, nn.Unflatten)):
            self._between = self._names.get(id(module), "")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call through, and read the output if the function rectifies."""
        out = passed_on(func, *args, **(kwargs or {}))
        kind = _rectifies(func, args, kwargs or {})
        if kind and torch.is_grad_enabled() and isinstance(out, torch.Tensor) and out.requires_grad and out.dim() > 1:
            self._put_out = None
            self._add(self._running[-1] if self._running else "", kind, out, out.grad_fn)
        return out

    def _add(self, module: str, kind: str, out: torch.Tensor, node: Any) -> None:
        call = self._count.get(module, 0)
        self._count[module] = call + 1
        after, after_kind = self._last or (None, "")
        axis = _unit_axis(out, after_kind)
        others = tuple(i for i in range(out.dim()) if i != axis)
        fired = (out.detach() > 0).any(dim=others) if others else out.detach() > 0
        self.calls.append(RectifierCall(module, call, kind, after, fired, node))


def _unit_axis(out: torch.Tensor, after: str) -> int:
    """Axis 1 for feature maps (channels), else the last."""
    if out.dim() == 3:
        return 1 if after.startswith(_CHANNELS_FIRST) or "Conv" in after else 2
    if out.dim() >= 4:
        return out.dim() - 1 if after.startswith(("Linear", "LayerNorm", "RMSNorm", "Embedding")) else 1
    return out.dim() - 1


def _rectifies(func: Any, args: Any, kwargs: Any) -> str | None:
    name = getattr(func, "__name__", "")
    if name in {"relu", "relu_", "relu6"}:
        return name.rstrip("_")
    if name in {"clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_"}:
        low = args[1] if len(args) > 1 else kwargs.get("min")
        return "clamp" if isinstance(low, (int, float)) and low == 0 else None
    if name in {"hardtanh", "hardtanh_"}:
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        return "hardtanh" if low == 0 else None
    if name in {"threshold", "threshold_", "_threshold"}:
        level = args[1] if len(args) > 1 else kwargs.get("threshold")
        value = args[2] if len(args) > 2 else kwargs.get("value")
        return "threshold" if level == 0 and value == 0 else None
    return None
