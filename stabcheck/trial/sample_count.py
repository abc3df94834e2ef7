"""How many samples one pass over a loader gives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from stabcheck.trial import batches
from stabcheck.trial.session import Session
from stabcheck.userland import userland

ENOUGH_SAMPLES, ENOUGH_SECONDS = 1000, 1.0
"""Where a loader must be read to be counted, it is read no further."""


@dataclass(frozen=True)
class SampleCount:
    """`samples` come out of one pass, of `held` that its sampler draws (the same where nothing is dropped); `exact` is False if
    there are more."""

    samples: int
    held: int
    exact: bool


def count_samples(session: Session, key: str) -> SampleCount:
    """How many samples one pass over `train_loader` or `val_loader` gives: told by a DataLoader's sampler, else counted.

    Raises:
        Skip: there is no val_loader.
        UserCodeError: the loader raised.
    """
    loader: Any = getattr(session.setup, key)
    sampler = getattr(loader, "batch_sampler", None)
    known = type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset)
    if known and type(sampler) is BatchSampler and hasattr(type(sampler.sampler), "__len__"):
        with userland(f"len({key})"):
            held = len(sampler.sampler)  # type: ignore[arg-type]
        return SampleCount(held - held % sampler.batch_size if sampler.drop_last else held, held, exact=True)
    count, until = 0, time.monotonic() + ENOUGH_SECONDS
    for batch in session.epoch(key):
        count += batches.size(batch)
        if count >= ENOUGH_SAMPLES or time.monotonic() > until:
            return SampleCount(count, count, exact=False)
    return SampleCount(count, count, exact=True)
