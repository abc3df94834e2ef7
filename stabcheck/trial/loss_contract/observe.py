"""Watching the set-up compute its loss: by itself on a few batches, and inside the user's own step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from stabcheck.trial import batches
from stabcheck.trial.autograd_graph import nodes_behind
from stabcheck.trial.bench import Bench
from stabcheck.trial.loop_spy import LoopSpy
from stabcheck.trial.loss_contract.fault import Fault
from stabcheck.trial.loss_contract.faults import of_call, of_crossing
from stabcheck.trial.loss_contract.twins import Twin, cancels
from stabcheck.trial.loss_contract.uncounted import Counted, counted
from stabcheck.trial.loss_contract.watch import Crossing, LossCall, LossWatch
from stabcheck.trial.losses import split
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

BATCHES = 4
"""Batches whose loss is looked at: a fault of how outputs and targets meet is in each of them."""
STEPS = 2
"""Calls of the user's own step that are looked at."""
TARGET_SECONDS = 0.3
"""How long the targets of further batches are looked through, for a class that is rare and out of range."""
SECONDS = 1.0
"""After so long no further batch or step is begun."""


@dataclass
class Pass:
    """One loss: what it is the root of, and the calls that made it."""

    batch: Any
    root: torch.Tensor | None
    calls: list[LossCall]
    """Those whose results are in the graph of the root, and one that raised."""
    crossings: list[Crossing]
    token_ids: list[torch.Tensor]
    error: UserCodeError | None = None
    own_step: bool = False
    supervised: list[tuple[LossCall, float | None]] = field(default_factory=list)
    """The calls with targets that are not computed, with d root / d result where all elements of the result share one."""
    faults: list[Fault] = field(default_factory=list)
    """What the arguments of the calls told."""
    twins: list[Twin] = field(default_factory=list)
    """Terms that compare a tensor with itself."""
    counted: list[Counted | None] = field(default_factory=list)
    """Of each call with class numbers, which of them count; None if all do."""

    def judged(self) -> Pass:
        """The same with its faults, and without the graph, which may hold much memory."""
        self.faults = [fault for call in self.calls if (fault := of_call(call)) is not None]
        self.faults += map(of_crossing, self.crossings)
        self.counted = [counted(call, self.batch) for call in self.calls if call.has_indices]
        self.crossings.clear()
        for call in self.calls:
            call.input, call.result, call.pull = call.input.detach(), None, None
            call.target = call.target.detach() if call.target is not None else None
        self.root = self.root.detach() if self.root is not None else None
        return self


def passes(session: Session, seed: int) -> list[Pass]:
    """The loss of a few training batches, each with its calls. Nothing of the session is changed.

    Raises:
        UserCodeError: the loader raised.
    """
    found: list[Pass] = []
    began = time.monotonic()
    with undisturbed(session.model), kept_rng(seed):
        session.model.train()
        for batch in session.epoch():
            found.append(one_pass(session, batches.clone(batch)))
            if len(found) >= BATCHES or found[-1].error or time.monotonic() - began > SECONDS:
                break
    return found


def later_targets(session: Session, seen: Pass) -> Iterator[tuple[LossCall, torch.Tensor]]:
    """The class numbers of further batches, for the call that gets a loss_fn's targets as they are; for a short while.

    Raises:
        UserCodeError: the loader raised.
    """
    if session.setup.loss_fn is None:
        return
    given = split(seen.batch)[1]
    calls = [c for c in seen.calls if c.has_indices and isinstance(given, torch.Tensor) and _same(c.target, given)]
    began = time.monotonic()
    with kept_rng():
        for batch in itertools.islice(session.epoch() if calls else (), BATCHES, None):
            targets = split(batch)[1]
            if time.monotonic() - began > TARGET_SECONDS:
                return
            if isinstance(targets, torch.Tensor):
                yield calls[0], targets


def _same(a: torch.Tensor | None, b: torch.Tensor) -> bool:
    return a is not None and a.numel() == b.numel() and bool((a.flatten() == b.to(a.device).flatten()).all())


def one_pass(session: Session, batch: Any) -> Pass:
    """The loss of one batch with its calls, in whatever mode the model is."""
    watch = LossWatch(session.model)
    try:
        with torch.enable_grad(), watch.watching():
            root = session.loss(batch)
    except UserCodeError as error:
        refused = [call for call in watch.calls[-1:] if call.error]
        return Pass(batch, None, refused, [], watch.token_ids, error).judged()
    return _rooted(batch, root, watch)


def own_passes(bench: Bench) -> list[Pass]:
    """The same for the roots of every backward pass in a few calls of the user's own step, on a fresh session.

    Raises:
        UserCodeError: the loader raised.
        Skip: there is no time to build the set-up again.
    """
    session = bench.session()
    found: list[Pass] = []
    spy = LoopSpy(session.model)
    session.model.train()
    began = time.monotonic()
    for count, batch in enumerate(session.epoch()):
        if count >= STEPS or (count and time.monotonic() - began > SECONDS):
            break
        kept = batches.clone(batch)
        watch = LossWatch(session.model)

        def note(root: torch.Tensor, kept: Any = kept, watch: LossWatch = watch) -> None:
            found.append(_rooted(kept, root, watch))
            found[-1].own_step = True

        spy.on_backward = note
        try:
            with spy.watching(), watch.watching():
                session.step(batch)
        except UserCodeError as error:
            refused = [call for call in watch.calls[-1:] if call.error]
            found.append(Pass(kept, None, refused, [], [], error, own_step=True).judged())
            break
    return found


def _rooted(batch: Any, root: torch.Tensor, watch: LossWatch) -> Pass:
    nodes = set(nodes_behind(root))

    def is_in(result: torch.Tensor | None) -> bool:
        return result is not None and result.grad_fn is not None and result.grad_fn in nodes

    calls = [call for call in watch.calls if is_in(call.result)]
    crossings = [crossing for crossing in watch.crossings if is_in(crossing.result)]
    found = Pass(batch, root, calls, crossings, list(watch.token_ids))
    parameters = list(watch.model.parameters())
    found.twins = [twin for twin in watch.twins if is_in(twin.result) and cancels(twin, parameters)]
    _pull(root, calls)
    targeted = [call for call in calls if call.target is not None and not call.target.requires_grad]
    found.supervised = [(call, _common(call.pull)) for call in targeted]
    return found.judged()


def _pull(root: torch.Tensor, calls: list[LossCall]) -> None:
    """Note how the root depends on the result of each call."""
    results = [call.result for call in calls if call.result is not None]
    if not results or root.numel() != 1:
        return
    try:
        gradients = torch.autograd.grad(root, results, retain_graph=True, allow_unused=True)
    except RuntimeError:  # a part of the graph that cannot be differentiated alone
        return
    for call, gradient in zip(calls, gradients, strict=True):
        call.pull = gradient.detach() if gradient is not None else None
        call.skips = gradient is None or not bool(gradient.all())
    for call in calls:
        if call.name in {"nll_loss", "kl_div"} and call.input.requires_grad:
            _note_shift(root, call)


def _note_shift(root: torch.Tensor, call: LossCall) -> None:
    (slope,) = torch.autograd.grad(root, call.input, retain_graph=True, allow_unused=True)
    if slope is not None and call.input.dim():
        axis = call.class_axis if call.name == "nll_loss" else call.input.dim() - 1
        call.shiftless = bool(slope.sum(axis).abs().max() <= SAME_WEIGHT * slope.abs().sum(axis).max())


def _common(gradient: torch.Tensor | None) -> float | None:
    """The one value that all elements have which are not 0; None if they differ, as weights or rewards make them."""
    if gradient is None:
        return None
    values = gradient.float().flatten()
    values = values[values != 0]
    if not values.numel() or not bool(torch.isfinite(values).all()):
        return None
    first = float(values[0])
    return first if bool(((values - first).abs() <= SAME_WEIGHT * abs(first)).all()) else None


SAME_WEIGHT = 1e-4
"""Relative difference between the weights of samples that rounding makes."""
