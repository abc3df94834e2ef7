"""Watching which modules run, in which mode, and which random functions stay active, whoever calls them.

The hooks are global, so that models which live in the user's closures (an EMA copy, a teacher) are seen too.
Modules called by `.forward()` and scripted code are not seen.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode

from stabcheck.trial import batches
from stabcheck.trial.validation.dropping import (
    DRAWS,
    DROPPERS,
    Place,
    author_of,
    is_dropping,
    strength_of,
)
from stabcheck.trial.validation.mode_switches import hidden_path, switch
from stabcheck.trial.validation.sightings import Activity, ModeCall, RootCall, Visit, fingerprint
from stabcheck.userland import passed_on, users_line


class TimeUpError(BaseException):
    """Raised out of a forward when the time for watching is over; no `except Exception` of the user's stops it."""


@dataclass
class ForwardWatch(contextlib.AbstractContextManager["ForwardWatch"]):
    """What ran between `with` and its end. `force_eval` runs every module in eval mode instead of the user's choice."""

    model: nn.Module
    deadline: float = float("inf")
    force_eval: bool = False
    functions: bool = True
    substitute: Callable[[Any], Any] | None = None
    """Makes of the output of an outermost module what its caller gets instead."""
    visits: dict[int, Visit] = field(default_factory=dict)
    calls: list[RootCall] = field(default_factory=list)
    activities: dict[tuple[str, Place | None], Activity] = field(default_factory=dict)
    mode_calls: list[ModeCall] = field(default_factory=list)
    stepped: list[Any] = field(default_factory=list)
    """Optimizers that stepped."""
    touched: bool = False
    """A function was called with a parameter: even if no module ran, a model did."""
    graphs_alive: int = 0
    """Most graphs of earlier calls that were alive when a later one began."""

    def __enter__(self) -> ForwardWatch:
        self._thread = threading.get_ident()
        self._stack: list[nn.Module] = []
        self._modes: dict[nn.Module, bool] = {}
        self._tokens: list[weakref.ref[_Token]] = []
        self._paths = {id(m): name for name, m in self.model.named_modules()}
        self._within_train = 0
        self._exit = contextlib.ExitStack()
        for handle in (
            register_module_forward_pre_hook(self._before),
            register_module_forward_hook(self._after, always_call=True),
            register_optimizer_step_post_hook(lambda optimizer, args, kwargs: self.stepped.append(optimizer)),
        ):
            self._exit.callback(handle.remove)
        self._exit.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)  # it would warn of our own hooks
        self._exit.enter_context(self._logged_train())
        self._exit.enter_context(uncompiled())
        if self.functions:
            self._exit.enter_context(_Functions(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()
        for module, mode in self._modes.items():
            module.training = mode

    def all_in_eval(self) -> tuple[Visit, ...]:
        """The modules with a switch, if none of them and none of the outermost modules ran in training mode."""
        visits = [v for v in self.visits.values() if v.of_model]
        switched = tuple(v for v in visits if v.switch)
        in_training = any(v.training for v in visits if v.switch or v.module is v.root)
        return () if in_training else switched

    # --- modules

    def _before(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if time.monotonic() > self.deadline:
            raise TimeUpError
        if self.force_eval and module.training:
            self._modes.setdefault(module, True)
            module.training = False
        if not self._stack and next(module.parameters(), None) is not None:
            self.graphs_alive = max(self.graphs_alive, sum(token() is not None for token in self._tokens))
            self.calls.append(RootCall(module, grad=torch.is_grad_enabled()))
        self._stack.append(module)
        self._note_inputs(args)
        visit = self.visits.get(id(module)) or self._first_visit(module)
        if module.training:
            visit.training += 1
            visit.under_eval += not self._stack[0].training
        else:
            visit.evaluating += 1

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        if threading.get_ident() != self._thread or module not in self._stack:
            return None
        while self._stack.pop() is not module:
            pass
        if not self._stack and self.calls and self.calls[-1].root is module:
            found = list(batches.tensors(output))
            self.calls[-1].outputs = fingerprint(found)
            grown = next((t for t in found if t.grad_fn is not None), None)
            if grown is not None and grown.grad_fn is not None:
                token = _Token()
                grown.grad_fn.register_hook(token)
                self._tokens.append(weakref.ref(token))
            return output if self.substitute is None else self.substitute(output)
        return None

    def _note_inputs(self, args: Any) -> None:
        """Remember the first tensors that the present root call, or else a module inside it, was given."""
        if not self.calls or self.calls[-1].root is not self._stack[0] or self.calls[-1].inputs is not None:
            return
        found = [t for t in batches.tensors(args) if not isinstance(t, nn.Parameter)]
        if found:
            call = self.calls[-1]
            call.inputs, call.samples = fingerprint(found), batches.size(args)
            call.wants_input_grad = any(t.requires_grad and t.is_leaf for t in found)

    def _first_visit(self, module: nn.Module) -> Visit:
        root = self._stack[0]
        of_model = id(root) in self._paths or any(id(m) in self._paths for m in self._stack)
        path = self._paths.get(id(module))
        if path is None:
            path = {id(m): name for name, m in root.named_modules()}.get(id(module))
        if path is None and len(self._stack) > 1:
            parent = self._stack[-2]
            path = hidden_path(parent, self.visits[id(parent)].path, module)
        visit = Visit(module, root, path or "", type(module).__name__, of_model, switch(module))
        self.visits[id(module)] = visit
        return visit

    # --- modes

    @contextlib.contextmanager
    def _logged_train(self) -> Iterator[None]:
        original: Any = nn.Module.train

        def train(module: nn.Module, mode: bool = True) -> nn.Module:
            if not self._within_train:
                self.mode_calls.append(ModeCall(module, mode, users_line(sys._getframe(1)), bool(self._stack)))
            self._within_train += 1
            try:
                passed_on(original, module, mode)
                return module
            finally:
                self._within_train -= 1

        nn.Module.train = train  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            nn.Module.train = original  # type: ignore[method-assign]

    # --- functions

    def _function(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        visit = self.visits.get(id(self._stack[-1])) if self._stack else None
        by_hand = name in DRAWS
        if (by_hand and visit is None) or not is_dropping(
            name, args, kwargs, (visit.kind, visit.path) if visit else ("", "")
        ):
            return
        if visit is not None and visit.module.training:
            visit.drops = True
            return
        author = author_of(sys._getframe(1))
        place = author.place if author else None
        known = self.activities.get((name, place))
        if known is not None:
            known.count += 1
            return
        self.activities[name, place] = Activity(
            name=name,
            strength=None if by_hand else strength_of(name, args, kwargs),
            path=visit.path if visit else None,
            kind=visit.kind if visit else None,
            author=author,
            by_hand=by_hand,
        )


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run the original code of compiled modules inside: it computes the same, and shows its modules and functions."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


class _Token:
    """Hung on a node of the autograd graph: lives exactly as long as that graph."""

    def __call__(self, *gradients: Any) -> None:
        return None


class _Functions(TorchFunctionMode):
    """Tells the watch about the functions that it wants to know."""

    def __init__(self, watch: ForwardWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if (name in DROPPERS or name in DRAWS) and threading.get_ident() == self._watch._thread:
            self._watch._function(name, args, kwargs)
        self._watch.touched = self._watch.touched or any(isinstance(a, nn.Parameter) for a in args)
        return passed_on(func, *args, **kwargs)
