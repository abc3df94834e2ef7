"""The Bench makes fresh, seeded Sessions, and knows how much time is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from stabcheck.check import Skip, Source
from stabcheck.loading import EntryPoint, source_of
from stabcheck.recording import Recording, nearest
from stabcheck.setup import KEYS, TrainingSetup
from stabcheck.trial.constructions import Constructions
from stabcheck.trial.nursery import Nursery
from stabcheck.trial.rng import RngState, rng_state, seed_all
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, is_users, userland


@dataclass
class Bench:
    """What an experiment works with.

    `scratch` is an empty directory for the experiment's files. `tell(fraction, detail)` reports progress.
    """

    entry: EntryPoint
    seed: int
    scratch: Path
    nursery: Nursery
    device: torch.device | None = None
    deadline: float = float("inf")
    """time.monotonic() at which the budget ends."""
    recording: Recording | None = None
    tell: Callable[[float | None, str], None] = lambda fraction, detail: None
    load_seconds: float = 0.0
    built: Constructions = field(default_factory=Constructions, repr=False)
    places: dict[str, Source] = field(default_factory=dict)
    """Key of the set-up -> the user's line that it comes from, as far as it is known; "entry" is the entry function."""
    sources: dict[str, Source] = field(default_factory=dict)
    """Path of a module -> the user's line that it comes from, where that is not the one of the module around it."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Path of a module that ends in a number, which tells nobody anything -> its class."""
    _shared: Session | None = field(default=None, repr=False)
    _prepared: tuple[Session, RngState] | None = field(default=None, repr=False)
    _seen: WeakValueDictionary[int, torch.Tensor] = field(default_factory=WeakValueDictionary, repr=False)
    _peaks: tuple[float, ...] | None = None

    def session(self, seed: int | None = None) -> Session:
        """A fresh set-up, built by the user's function right after every generator was seeded.

        Raises:
            Skip: building it again does not fit the budget.
            UserCodeError: the user's function raised.
        """
        if self._prepared is not None and seed in {None, self.seed}:
            (session, rng), self._prepared = self._prepared, None
            rng.restore()
            return session
        if self.load_seconds > self.remaining():
            raise Skip(
                f"building the set-up again takes {self.load_seconds:.0f} s and "
                f"{max(self.remaining(), 0):.0f} s of --budget are left"
            )
        seed_all(self.seed if seed is None else seed)
        started = time.monotonic()
        with self.built.noting():
            setup = self.entry.build()
        self._reject_reuse(setup.model)
        if not self.places:
            self._look_around(setup)
        # The user's code may have cleared the directory for temporary files, this one included.
        self.scratch.mkdir(parents=True, exist_ok=True)
        session = Session(setup, self.device)
        self.load_seconds = max(self.load_seconds, time.monotonic() - started)
        return session

    def prepare(self) -> Session:
        """Build the set-up for the next call of `session`, and show it: it may only be looked at.

        Raises:
            UserCodeError: the user's function raised.
        """
        session = self.session()
        self._prepared = session, rng_state()
        return session

    def _reject_reuse(self, model: nn.Module) -> None:
        """A model that an earlier check has trained would be judged in place of the user's.

        Raises:
            UserCodeError: weights of an earlier set-up are in this one.
        """
        with userland("model.named_parameters()"):
            trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        for name, parameter in trainable:
            if self._seen.get(id(parameter)) is parameter:
                file, line = source_of(self.entry.function) or (None, None)
                raise UserCodeError(
                    f"{getattr(self.entry.function, '__name__', 'the entry function')}()",
                    f"it returned the same model again ({name} is the very parameter of an earlier call): build the model "
                    "and the optimizer inside the function, so that every check starts afresh",
                    file=file,
                    line=line,
                )
            self._seen[id(parameter)] = parameter

    def shared(self) -> Session:
        """One Session for everything that only looks: it must not be trained, nor its scheduler stepped."""
        if self._shared is None:
            self._shared = self.session()
        return self._shared

    def peak_rates(self) -> tuple[float, ...]:
        """The highest rate that each parameter group is planned to train with; empty without an optimizer."""
        if self._peaks is None:
            from stabcheck.trial.schedule.simulation import planned_peaks

            scheduled = self.shared().setup.scheduler is not None
            rates = planned_peaks(self.session()) if scheduled else ()
            self._peaks = tuple(peak.rate for peak in rates) or self.shared().learning_rates()
        return self._peaks

    def remaining(self) -> float:
        """Seconds of the budget that are left; below zero when it is spent."""
        return self.deadline - time.monotonic()

    def source(self, item: Any) -> Source | None:
        """The user's line that an object comes from: where they defined a callback or the object's class, else where they
        built it; None if neither is known."""
        found = source_of(item) if item is not None else None
        return found if found and is_users(found[0]) else self.built.place(item)

    def _look_around(self, setup: TrainingSetup) -> None:
        with userland("model.named_modules()"):
            modules = dict(setup.model.named_modules())
        self.kinds = {path: type(module).__name__ for path, module in modules.items() if path[-1:].isdigit()}
        for path, module in modules.items():
            place, around = self.source(module), nearest(path, self.sources)
            if place and not (around and place == self.sources[around]):
                self.sources[path] = place
        entry = source_of(self.entry.function)
        self.places = {"entry": entry} if entry else {}
        for key in KEYS:
            item = getattr(setup, key)
            with contextlib.suppress(UserCodeError), userland(key):
                if place := self._origin(key, item):
                    self.places[key] = place

    def _origin(self, key: str, item: Any) -> Source | None:
        """Where to look for what is wrong with a part of the set-up: data comes from the dataset behind a loader, rates from
        the function that a schedule calls, and options from where the optimizer was given them."""
        if key in {"train_loader", "val_loader"}:
            return self.source(getattr(item, "dataset", None)) or self.source(item)
        if key == "scheduler":
            return self.source(next(iter(getattr(item, "lr_lambdas", ())), None)) or self.source(item)
        if key == "optimizer":
            return self.built.place(item) or self.source(item)
        return self.source(item) if callable(item) else None
