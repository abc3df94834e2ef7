"""Every operation of a forward with its result, to find the first that shows something."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stabcheck.check import Source
from stabcheck.trial.batches import tensors
from stabcheck.trial.call_watch import CallWatch
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.userland import UserCodeError, users_line

MOST_NUMBERS = 50_000_000
"""Numbers that are kept of one forward (200 MB); what comes after is not traced."""
RESHAPES = {"view", "reshape", "flatten", "unflatten", "unfold", "_unsafe_view", "reshape_as", "view_as"}


@dataclass
class Op:
    """One operation. `results` are copies."""

    name: str
    module: str
    """Path of the innermost module that was running."""
    kind: str
    """Its class."""
    line: Source | None
    """Where the user wrote it."""
    results: list[torch.Tensor]
    given: tuple[int, ...]
    """`id` of each tensor that went in."""
    made: tuple[int, ...]
    """`id` of each result itself."""
    axes: Any
    """Its argument `dim`."""
    before: torch.Tensor | None = None
    """A copy of what was reshaped."""
    differentiable: bool = False

    @property
    def words(self) -> str:
        """The operation in its place, for a sentence."""
        axes = f"(dim={self.axes})" if isinstance(self.axes, (int, tuple, list)) else ""
        shapes = f" of {tuple(self.before.shape)} as {tuple(self.results[0].shape)}" if self.before is not None else ""
        return f"{self.name.strip('_')}{axes}{shapes} in {f'{self.module} ({self.kind})' if self.module else self.kind}"


@dataclass
class Trace:
    """The operations of one forward, in order."""

    ops: list[Op] = field(default_factory=list)


class _Tracer(CallWatch):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.trace = Trace()
        self.room = MOST_NUMBERS
        self.alive: list[Any] = []
        self._before: torch.Tensor | None = None

    def answer(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Keep what is going to be reshaped."""
        reshaped = args[0] if name in RESHAPES else None
        self._before = reshaped.detach().clone() if isinstance(reshaped, torch.Tensor) else None
        return super().answer(name, func, args, kwargs)

    def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Keep one operation."""
        results = list(tensors(args[0] if name == "__setitem__" else out))
        self.room -= sum(t.numel() for t in results)
        if not results or self.room < 0:
            return
        given = list(tensors([list(args), list(kwargs.values())]))
        self.alive += [*given, *results]
        self.trace.ops.append(
            Op(
                name=name,
                module=self.module,
                kind=type(self.innermost).__name__,
                line=users_line(sys._getframe()),
                results=[t.detach().clone() for t in results],
                given=tuple(map(id, given)),
                made=tuple(map(id, results)),
                axes=_axes(name, args, kwargs),
                before=self._before,
                differentiable=any(t.requires_grad for t in results),
            )
        )


_WITH_AXIS = {
    *(
        "softmax",
        "log_softmax",
        "mean",
        "sum",
        "std",
        "var",
        "norm",
        "amax",
        "amin",
        "max",
        "min",
        "cumsum",
        "logsumexp",
    ),
    *("normalize", "sort", "argsort", "median", "flip", "roll", "cat", "prod", "softmin", "logcumsumexp"),
}


def _axes(name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    if "dim" in kwargs:
        return kwargs["dim"]
    return args[1] if name in _WITH_AXIS and len(args) > 1 and not isinstance(args[1], torch.Tensor) else None


def traced(subject: Subject, change: Changed | None = None) -> tuple[Trace, tuple[int, ...]] | None:
    """The operations of the model for changed inputs, and the `id` of each input that is not what it was, as it went in; None if
    it raised."""
    tracer = _Tracer(subject.session.model)
    entered: list[torch.Tensor] = []

    # Made before, or the tracer would see how; with a graph, so that what no gradient passes can be told.
    values = {name: _in_graph(change(name, t) if change else t) for name, t in subject.inputs().items()}

    def noted(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not torch.equal(values[name], tensor):
            entered.append(values[name])
        return values[name]

    with tracer.inserted(), contextlib.suppress(UserCodeError):
        subject.run(noted, graph=True)
        return tracer.trace, tuple(map(id, entered))
    return None


def _in_graph(tensor: torch.Tensor) -> torch.Tensor:
    # Not the leaf itself, which must not be changed in place.
    return tensor.detach().requires_grad_() + 0 if tensor.is_floating_point() else tensor


def aligned(*traces: Trace) -> Iterator[tuple[Op, ...]]:
    """The operations that all took, one after the other, up to the first at which they part."""
    for ops in zip(*(t.ops for t in traces), strict=False):
        shapes = {tuple(tuple(r.shape) for r in op.results) for op in ops}
        if len({op.name for op in ops}) > 1 or len(shapes) > 1:
            return
        yield ops


def first(traces: tuple[Trace, ...], shows: Callable[[tuple[torch.Tensor, ...]], bool]) -> Op | None:
    """The first operation of the first trace with a result (one of each trace) that `shows` it."""
    for ops in aligned(*traces):
        if any(shows(results) for results in zip(*(op.results for op in ops), strict=True)):
            return ops[0]
    return None
