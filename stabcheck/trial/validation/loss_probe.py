"""The loss of one training batch under chosen modes and random numbers, to tell whether something matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from stabcheck.trial.modes import kept_modes
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.validation.forward_watch import uncompiled
from stabcheck.userland import UserCodeError

SEEDS = (1, 2, 3, 4)
"""Mean losses under different random numbers can agree by chance, but not four times."""

SAME_LOSS = 1e-4
"""Relative difference that rounding makes in a loss computed twice in the same mode (GPU, bf16)."""

SAME_IN_BOTH_MODES = 1e-3
"""The same between modes, whose fused and unfused kernels round differently."""


class LossProbe:
    """All answers are None where the loss cannot be computed."""

    def __init__(self, session: Session, batch: Any) -> None:
        self._session, self._batch = session, batch

    def loss(self, *, training: bool, seed: int = 0) -> float | None:
        """The loss, with modes, buffers and random numbers left as they were."""
        model = self._session.model
        buffers = [(b, b.clone()) for b in model.buffers()]
        try:
            with kept_modes(model), kept_rng(seed), torch.no_grad(), uncompiled():
                model.train(training)
                return float(self._session.loss(self._batch))
        except UserCodeError:
            return None
        finally:
            for buffer, held in buffers:
                buffer.data.copy_(held)

    def is_noisy_in_eval(self) -> bool | None:
        """Whether the loss in eval mode varies with the random numbers."""
        first = self.loss(training=False)
        return differ(((first, self.loss(training=False, seed=seed)) for seed in SEEDS), SAME_LOSS)

    def depends_on_mode(self) -> bool | None:
        """Whether the loss differs between training and eval mode under the same random numbers."""
        pairs = ((self.loss(training=True, seed=seed), self.loss(training=False, seed=seed)) for seed in SEEDS)
        return differ(pairs, SAME_IN_BOTH_MODES)


def differ(pairs: Iterable[tuple[float | None, float | None]], tolerance: float) -> bool | None:
    """Whether the losses of any pair differ by more than a relative `tolerance`; None if none could be computed."""
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return any(not math.isclose(a, b, rel_tol=tolerance) for a, b in known) if known else None
