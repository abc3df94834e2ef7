"""The record of an uninterrupted run: its steps, and the places where it was saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from stabcheck.check import Source
from stabcheck.trial.resume.state import State, fingerprint
from stabcheck.trial.rng import RngState

MID_EPOCH, BOUNDARY = "mid-epoch", "epoch boundary"


@dataclass
class Moment:
    """One step of the uninterrupted run, with what is needed to take it again."""

    batch: Any
    metric: float | None
    """Given to `end_epoch` before the step, if an epoch ended there."""
    rng: RngState
    generators: dict[str, Any]
    loss: float | None = None


@dataclass
class Cut:
    """A place where the run was saved."""

    name: str
    at: int
    """Steps taken before."""
    path: str
    rng: RngState
    generators: dict[str, Any]
    gradients: dict[str, torch.Tensor]
    """Those that the last step left; empty where they are large."""
    scaler: dict[str, Any]
    before: State
    saved: State
    """The state when `save` returned; `before` when it was called."""
    wrote: int
    """Bytes of the checkpoint; 0 if nothing was written at or beside the path."""
    epoch_metric: float | None
    """Given to `end_epoch` right before saving, at an epoch boundary."""
    end: State = field(default_factory=dict)
    eval_loss: float | None = None


@dataclass
class Run:
    """The uninterrupted run."""

    start: State
    iterators: list[str]
    """Running iterators that the callbacks close over."""
    own_checkpoint: bool
    """The set-up has its own save and load."""
    own_generator: bool
    """The loader shuffles with a generator of its own."""
    save_source: Source | None
    load_source: Source | None
    moments: list[Moment] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    after: int = 0
    """Steps taken after each cut."""
    only_one: str = ""
    """Why there is no second cut, if there is none."""

    def losses(self, cut: Cut) -> list[float | None]:
        """The losses that follow a cut."""
        return [moment.loss for moment in self.moments[cut.at : cut.at + self.after]]

    def order(self, at: int) -> list[str]:
        """Fingerprints of the batches from step `at` on."""
        return [fingerprint(moment.batch) for moment in self.moments[at : at + self.after]]
