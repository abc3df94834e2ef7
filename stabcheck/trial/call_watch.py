"""Watching every torch function that a model calls, and the module in which it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import running
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, passed_on

Watch = TypeVar("Watch", bound="CallWatch")


class CallWatch(TorchFunctionMode):
    """Calls everything through; a subclass reads in `saw`, or answers otherwise in `answer`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
        self._running: list[nn.Module] = []
        self.entered: set[str] = set()
        """Modules whose forward ran."""

    @property
    def innermost(self) -> nn.Module:
        """The innermost module that is running; the model itself where none is."""
        return self._running[-1] if self._running else self.model

    @property
    def module(self) -> str:
        """Its path; "" is the model itself."""
        return self._names.get(id(self.innermost), "")

    @contextlib.contextmanager
    def inserted(self) -> Iterator[Self]:
        """Watch what is called inside."""
        with (
            running(self.model, lambda module: self.entered.add(self._names.get(id(module), ""))) as self._running,
            self,
        ):
            yield self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call of a torch function comes through here."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        out = self.answer(name, func, args, kwargs)
        self.saw(name, args, kwargs, out)
        return out

    def answer(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """What the caller gets."""
        return passed_on(func, *args, **kwargs)

    def saw(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """One call has been answered with `out`."""


def watch_loss(session: Session, batch: Any, seed: int, watch: CallWatch) -> torch.Tensor:
    """The loss of `batch` under `watch`, everything that it disturbs put back.

    Raises:
        UserCodeError: the model or the loss raised.
        Skip: the set-up's loss is not to be had.
    """
    with undisturbed(session.model), kept_rng(seed), torch.enable_grad(), watch.inserted():
        return session.loss(batch)


def watch_one(bench: Bench, make: Callable[[nn.Module, Any], Watch]) -> Watch:
    """`make(model, batch)` after it has watched one loss of the shared set-up or, where the loss is known only inside the
    user's step, one such step of a fresh one.

    Raises:
        UserCodeError: neither can be had.
        Skip: the same.
    """
    session = bench.shared()
    batch = session.placed(session.first_batch())
    watch = make(session.model, batch)
    try:
        watch_loss(session, batch, bench.seed, watch)
    except UserCodeError:
        if session.setup.train_step is None or session.setup.loss_fn or session.setup.compute_loss:
            raise
    else:
        return watch
    session = bench.session()
    batch = session.first_batch()
    watch = make(session.model, batch)
    with watch.inserted():
        session.step(batch)
    return watch


def argument(args: Any, kwargs: Any, place: int, key: str) -> Any:
    """An argument that may be given by place or by name."""
    return args[place] if len(args) > place else kwargs.get(key)
