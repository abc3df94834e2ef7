"""Which batch the model is fed: the one that the step was given, or the first one again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stabcheck.trial import batches
from stabcheck.trial.validation.sightings import Print, fingerprint

FEWEST = 3
"""Calls with another batch than the first, from which on it is no accident."""


class Fed:
    """The tensors of each call's batch, and those that the model was called with in it."""

    def __init__(self) -> None:
        self._given: list[set[Print]] = []
        self._used: list[set[Print]] = []

    def begin(self, batch: Any) -> None:
        """The next call of the training step gets this batch."""
        self._given.append(_prints(batch))
        self._used.append(set())

    def note(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook of the model."""
        if self._used:
            self._used[-1] |= _prints([*args, *kwargs.values()])

    def stale(self) -> int:
        """How many calls with another batch fed the model the first call's; 0 if one of them fed it anything of its own."""
        count = 0
        for given, used in list(zip(self._given, self._used, strict=True))[1:]:
            old, new = self._given[0] - given, given - self._given[0]
            if not old or not new:
                continue
            if used & new or not used & old:
                return 0
            count += 1
        return count if count >= FEWEST else 0


def _prints(parts: Any) -> set[Print]:
    """Of each tensor with more than one number, that of its values and shape."""
    tensors = [t for t in batches.tensors(parts) if not isinstance(t, nn.Parameter) and t.numel() > 1]
    with torch.no_grad():
        return {(float(t.numel()), *fingerprint([t])) for t in tensors}
