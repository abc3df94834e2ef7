"""The user's own validation, run after a few training steps, under observation."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import torch
from torch import nn

from stabcheck.check import Skip
from stabcheck.stats import mean, median
from stabcheck.trial.modes import held_by
from stabcheck.trial.session import Session
from stabcheck.trial.validation.forward_watch import ForwardWatch, TimeUpError
from stabcheck.trial.validation.loader_watch import LoaderWatch
from stabcheck.trial.validation.sightings import Activity, ModeCall, Print, Visit
from stabcheck.userland import UserCodeError

BORROWED_BATCHES = 8
"""Batches of the textbook validation, where the user gave none of their own: enough to see every module run."""

SAME_OUTPUT = 1e-3
"""Relative difference below which two outputs are the same. The fused attention kernels of eval mode differ from the
others by 1e-6 in float32; one active dropout changes an output by several percent."""

Alter = Callable[[int, LoaderWatch, Any], Any]
"""From the number of a forward, what was loaded before it, and its output to another output."""


@dataclass
class Run:
    """One validation as it was observed."""

    numbers: dict[str, float] = field(default_factory=dict)
    """Every number in what it returned, by its place; {"": x} for a plain number."""
    returned: str = "nothing"
    seconds: float = 0.0
    stopped: bool = False
    """It took too long and was broken off."""
    visits: tuple[Visit, ...] = ()
    """Models that the validation itself trains, such as a probe on features, are left out."""
    forwards: int = 0
    outputs: tuple[Print, ...] = ()
    """Of each forward of an outermost module."""
    touched: bool = False
    """A parameter was used, be it without any module's forward."""
    with_gradients: int = 0
    graphs_alive: int = 0
    wants_input_grad: bool = False
    passes_per_input: float = 1.0
    """Median number of forwards of the same input by the same model one after the other."""
    repeats: float = 1.0
    """The same of all forwards, so that several passes over the data count."""
    samples: int = 0
    activities: tuple[Activity, ...] = ()
    mode_calls: tuple[ModeCall, ...] = ()
    leaves_grad_off: bool = False
    """torch.set_grad_enabled(False) was still in force afterwards; it was undone."""
    stepped: bool = False
    """An optimizer that holds parameters of the set-up's model stepped."""
    yielded: dict[str, int] = field(default_factory=dict)
    """Samples that "train_loader", "val_loader" and "other" loaders gave."""
    loaders_known: bool = False
    """Whether `yielded` tells training from validation data."""

    def same_outputs(self, other: Run, tolerance: float = SAME_OUTPUT) -> bool:
        """Whether every forward gave the same output in both, within a relative `tolerance`."""
        return len(self.outputs) == len(other.outputs) and all(
            _close(a, b, tolerance) for a, b in zip(self.outputs, other.outputs, strict=True)
        )


def _close(a: Print, b: Print, tolerance: float) -> bool:
    if len(a) != len(b):
        return False
    distance, size = math.dist(a, b), math.hypot(*a)
    return distance <= tolerance * size or math.isnan(distance)


def run(
    session: Session,
    *,
    seconds: float = math.inf,
    force_eval: bool = False,
    alter: Alter | None = None,
) -> Run:
    """One validation under observation: the user's own, else the textbook one on at most BORROWED_BATCHES batches.

    It is broken off after `seconds`; `force_eval` runs every module in eval mode, whatever the user's code chose.
    `alter` gives, from the number of a forward, what was loaded before it and its output, what the validation gets instead.

    Raises:
        UserCodeError: the validation raised.
        Skip: there is no validate(), and the textbook one cannot be done with what the set-up gives.
    """
    started, result, stopped, grad = time.monotonic(), None, False, torch.is_grad_enabled()
    loaders = LoaderWatch(session.setup)
    watch = ForwardWatch(session.model, deadline=started + seconds, force_eval=force_eval)
    if alter is not None:
        watch.substitute = lambda output: alter(len(watch.calls) - 1, loaders, output)
    try:
        with loaders, watch:
            result = session.validate() if session.setup.validate is not None else _textbook(session)
    except UserCodeError as error:
        if not _was_stopped(error):
            raise
        stopped = True
    leaves_grad_off = grad and not stopped and not torch.is_grad_enabled()
    torch.set_grad_enabled(grad)
    trained = held_by(*watch.stepped)
    asked = [(id(c.root), c.inputs) for c in watch.calls if c.inputs]
    passes = [len(list(same)) for _, same in groupby(asked)]
    return Run(
        numbers=dict(_numbers(result)),
        returned="nothing" if result is None else type(result).__name__,
        seconds=time.monotonic() - started,
        stopped=stopped,
        visits=tuple(v for v in watch.visits.values() if v.of_model or not _holds(v.root, trained)),
        forwards=len(watch.calls),
        outputs=tuple(c.outputs for c in watch.calls),
        touched=watch.touched,
        with_gradients=sum(c.grad for c in watch.calls),
        graphs_alive=watch.graphs_alive,
        wants_input_grad=any(c.wants_input_grad for c in watch.calls),
        passes_per_input=median(passes) if passes else 1.0,
        repeats=median(Counter(asked).values()) if asked else 1.0,
        samples=sum(c.samples for c in watch.calls),
        activities=tuple(watch.activities.values()),
        mode_calls=tuple(watch.mode_calls),
        leaves_grad_off=leaves_grad_off,
        stepped=not trained.isdisjoint(id(p) for p in session.model.parameters()),
        yielded=loaders.samples,
        loaders_known=loaders.tells_apart,
    )


def _holds(module: nn.Module, parameters: set[int]) -> bool:
    return any(id(p) in parameters for p in module.parameters())


def _was_stopped(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, TimeUpError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _textbook(session: Session) -> float:
    """Mean loss in eval mode without gradients, over batches of val_loader, or of train_loader without one."""
    key = "val_loader" if session.setup.val_loader is not None else "train_loader"
    was_training = session.model.training
    session.model.eval()
    try:
        losses = [_eval_loss(session, batch, key) for batch in islice(session.epoch(key), BORROWED_BATCHES)]
    finally:
        session.model.train(was_training)
    return mean(losses)


def _eval_loss(session: Session, batch: Any, key: str) -> float:
    setup = session.setup
    try:
        return session.validation_loss(batch)
    except UserCodeError as error:
        says_loss = setup.loss_fn is not None or setup.compute_loss is not None or setup.train_step is None
        if says_loss and not _works_in_training(session, batch):
            raise
        missing = "validate" if says_loss else "validate' or 'loss_fn"
        raise Skip(f"in eval mode a batch of {key} gives no loss ({error.message}): add '{missing}'") from None


def _works_in_training(session: Session, batch: Any) -> bool:
    session.model.train()
    try:
        session.loss(batch)
    except UserCodeError:
        return False
    return True


def _numbers(value: Any, place: str = "") -> list[tuple[str, float]]:
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 and not value.is_complex() else None
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, (bool, int, float)):
        return [(place, float(value))]
    if isinstance(value, Mapping):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return []
    return [n for k, v in items[:64] for n in _numbers(v, f"{place}.{k}" if place else k)]
