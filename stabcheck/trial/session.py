"""One live set-up behind uniform verbs.

A check asks for `session.loss(batch)` or `session.step(batch)` and never which keys the user gave. All
user code runs through `userland`, so a failure arrives as a `UserCodeError` that names its stage.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stabcheck.check import Skip
from stabcheck.setup import TrainingSetup
from stabcheck.trial import batches
from stabcheck.trial.losses import loss_from, loss_value, scalar, split
from stabcheck.trial.modes import kept_modes, unseen_by_autograd
from stabcheck.trial.textbook import TextbookLoop, load, save
from stabcheck.userland import UserCodeError, userland

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Session:
    """A set-up that lives on one device. Not thread-safe; use a fresh one for everything that trains."""

    def __init__(self, setup: TrainingSetup, device: torch.device | None = None) -> None:
        self.setup = setup
        self.model: nn.Module = setup.model
        self._moved = device is not None
        if device is not None:
            with userland("model.to(device)"):
                self.model.to(device)
            _move_state(setup.optimizer, device)
        first = next(iter(self.model.parameters()), None)
        self.device = device or (first.device if first is not None else torch.device("cpu"))
        self._textbook = TextbookLoop("fp32" if setup.train_step else setup.precision, self.device)
        self._last_loss: float | None = None
        self._epoch = 0
        self._read: set[str] = set()

    # --- data

    def train_batches(self) -> Iterator[tuple[int, Any]]:
        """(epoch, batch) without end, starting the loader again when it is exhausted; the scheduler of a set-up
        that steps once an epoch is stepped at each end.

        Raises:
            UserCodeError: the loader raised, or gave no batch.
        """
        while True:
            count = 0
            for batch in self.epoch("train_loader"):
                count += 1
                yield self._epoch, batch
            if not count:
                raise UserCodeError(
                    "train_loader",
                    "it yields no batch: is the dataset empty, or smaller than batch_size with drop_last=True?",
                )
            self._epoch += 1
            self.end_epoch()

    def epoch(self, key: str = "train_loader") -> Iterator[Any]:
        """One pass over `train_loader` or `val_loader`.

        Raises:
            UserCodeError: the loader raised.
            Skip: there is no val_loader.
        """
        loader = getattr(self.setup, key)
        if loader is None:
            raise Skip(f"no {key} given: add {key!r} to the set-up")
        with userland(key):
            iterator = iter(loader)
        for count in itertools.count():
            with userland(key):
                try:
                    batch = next(iterator)
                except StopIteration:
                    if not count and key in self._read:
                        again = "it can be read only once: give something that starts again at each iter()"
                        raise UserCodeError(key, again) from None
                    return
            self._read.add(key)
            yield batch

    def first_batch(self, key: str = "train_loader") -> Any:
        """The first batch of a fresh pass.

        Raises:
            UserCodeError: the loader raised, or gave none.
        """
        for batch in self.epoch(key):
            return batch
        raise UserCodeError(
            key, "it yields no batch: is the dataset empty, or smaller than batch_size with drop_last=True?"
        )

    def placed(self, batch: Any) -> Any:
        """The batch on the model's device."""
        return batches.to_device(batch, self.device)

    @property
    def steps_per_epoch(self) -> int | None:
        """Calls of `step` in one pass over train_loader; None if its length is not known."""
        try:
            with userland("len(train_loader)"):
                return len(self.setup.train_loader)
        except UserCodeError:  # an iterable dataset has no length
            return None

    @property
    def planned_steps(self) -> int | None:
        """Optimizer steps of the real run, from max_steps, or max_epochs and the loader's length."""
        setup = self.setup
        if setup.max_steps is not None:
            return setup.max_steps
        per_epoch = self.steps_per_epoch
        if setup.max_epochs is None or per_epoch is None:
            return None
        return setup.max_epochs * max(1, math.ceil(per_epoch / setup.accumulate_steps))

    # --- loss and outputs

    def loss(self, batch: Any) -> torch.Tensor:
        """The set-up's loss on one batch, a scalar tensor with its graph, in the set-up's precision.

        Raises:
            UserCodeError: the model or the loss raised, or gave no scalar tensor.
        """
        batch = self.placed(batch)
        with self.autocast():
            if self.setup.compute_loss is not None:
                with userland("compute_loss"):
                    value = self.setup.compute_loss(self.model, batch)
                stage = "compute_loss"
            elif self.setup.loss_fn is not None:
                inputs, targets = split(batch)
                outputs = self._forward(inputs)
                stage = "loss_fn"
                with userland(stage):
                    value = self.setup.loss_fn(outputs, targets)
            else:
                value, stage = loss_from(self._call(batch)), "model"
        return scalar(value, stage)

    def outputs(self, batch: Any) -> Any:
        """What the model returns for the batch.

        Raises:
            Skip: the set-up has a compute_loss, which hides how the model is called.
        """
        if self.setup.compute_loss is not None:
            raise Skip("compute_loss hides how the model is called: give 'loss_fn' to have its outputs looked at")
        batch = self.placed(batch)
        with self.autocast():
            return self._forward(split(batch)[0]) if self.setup.loss_fn is not None else self._call(batch)

    def _forward(self, inputs: Any) -> Any:
        with userland("model"):
            return self.model(inputs)

    def _call(self, batch: Any) -> Any:
        given = "**batch" if isinstance(batch, Mapping) else "*batch" if isinstance(batch, (list, tuple)) else "batch"
        # What a first-time user meets who gives a model and a loader of (inputs, targets) only.
        with userland(f"model({given}), as neither 'loss_fn' nor 'compute_loss' is given"):
            if isinstance(batch, Mapping):
                return self.model(**batch)
            return self.model(*batch) if isinstance(batch, (list, tuple)) else self.model(batch)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The set-up's precision, as a context for calls of its model."""
        dtype = _DTYPES.get(self.setup.precision)
        return torch.autocast(self.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

    # --- training

    def step(self, batch: Any) -> float | None:
        """One whole training step: the user's own, else the textbook one. Returns the loss before the update,
        or None if the user's step returns none.

        Raises:
            UserCodeError: the step raised.
            Skip: there is neither a train_step nor an optimizer.
        """
        if self.setup.train_step is not None:
            if self._moved:
                batch = self.placed(batch)
            with userland("train_step"):
                value = self.setup.train_step(batch)
            self._last_loss = loss_value(value)
            return self._last_loss
        self._last_loss = self._textbook.step(self, batch)
        return self._last_loss

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The GradScaler of the textbook step; None in other precisions than fp16 and with a train_step."""
        return self._textbook.scaler

    @property
    def can_step(self) -> bool:
        """Whether the set-up says how it trains."""
        return self.setup.train_step is not None or self.setup.optimizer is not None

    def end_epoch(self, metric: float | None = None) -> None:
        """What happens between two epochs: a scheduler with interval "epoch" is stepped, with `metric` or else the last
        training loss if it waits for one."""
        if self.setup.scheduler is not None and self.interval == "epoch":
            self.step_scheduler(self._last_loss if metric is None else metric)

    @property
    def interval(self) -> str:
        """How often the scheduler is stepped: as the set-up says, else once an epoch for ReduceLROnPlateau and once a step."""
        plateau = isinstance(self.setup.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        return self.setup.scheduler_interval or ("epoch" if plateau else "step")

    def step_scheduler(self, loss: float | None) -> None:
        """Step the scheduler once; one that waits for a metric gets the training loss."""
        with userland("scheduler.step"):
            if isinstance(self.setup.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.setup.scheduler.step(math.inf if loss is None else loss)
            else:
                self.setup.scheduler.step()

    # --- validation and checkpoints

    def validate(self) -> Any:
        """The user's own validate(), or the textbook one: eval mode, no gradients, mean loss over val_loader."""
        if self.setup.validate is not None:
            with userland("validate"):
                return self.setup.validate()
        with kept_modes(self.model):
            self.model.eval()
            losses = [self.validation_loss(batch) for batch in self.epoch("val_loader")]
        return math.fsum(losses) / len(losses) if losses else math.nan

    def validation_loss(self, batch: Any) -> float:
        """The loss without a graph; a loss that differentiates by its inputs gets one all the same."""
        try:
            with torch.no_grad():
                return float(self.loss(batch))
        except UserCodeError as error:
            if "does not require grad" not in error.message:
                raise
            return float(self.loss(batch).detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint with the user's own save(), or the textbook one."""
        if self.setup.save is not None:
            with userland("save"):
                self.setup.save(str(path))
            return
        save(self.setup, path)

    def load(self, path: Path) -> None:
        """Read a checkpoint with the user's own load(), or the textbook one."""
        if self.setup.load is not None:
            with userland("load"):
                self.setup.load(str(path))
            return
        load(self.setup, path)

    # --- state

    def snapshot(self) -> dict[str, Any]:
        """A copy of model, optimizer and scheduler state, for `restore`; what lives in closures is not seen."""
        parts = {key: getattr(self.setup, key) for key in ("model", "optimizer", "scheduler")}
        states = {key: copy.deepcopy(part.state_dict()) for key, part in parts.items() if part is not None}
        return {**states, "modes": {name: module.training for name, module in self.model.named_modules()}}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Put a snapshot back and drop all gradients."""
        with unseen_by_autograd([*self.model.parameters(), *self.model.buffers()]):
            for key in (key for key in snapshot if key != "modes"):
                getattr(self.setup, key).load_state_dict(copy.deepcopy(snapshot[key]))
        for name, module in self.model.named_modules():
            module.training = snapshot["modes"].get(name, module.training)
        self.model.zero_grad(set_to_none=True)
        self._textbook.begin()

    def learning_rates(self) -> tuple[float, ...]:
        """The present rate of each parameter group that has one; empty without an optimizer."""
        groups = self.setup.optimizer.param_groups if self.setup.optimizer is not None else ()
        return tuple(float(r) for g in groups if (r := g.get("lr")) is not None)


def _move_state(optimizer: Any, device: torch.device) -> None:
    for state in getattr(optimizer, "state", {}).values():
        for key, item in state.items():
            if isinstance(item, torch.Tensor) and key != "step":
                state[key] = item.to(device)
