"""What it is worth to training to fill codes for missing values: the same steps with the mean of each column in their place."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stabcheck.check import Skip
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.missing_values import Code
from stabcheck.trial.data.scaling import COPES, LEARNT
from stabcheck.trial.data.scan import Scan, replaced
from stabcheck.trial.data.short_training import course, scale_of, tail
from stabcheck.trial.pace import Pace
from stabcheck.userland import UserCodeError

STEPS, PATIENCE = 60, 2
"""Steps with the codes filled, and times as many for the batches as they are: what gets there within it copes."""
BATCHES, SECONDS = 32, 1.0
"""Batches that are trained on, and the time for STEPS on them."""
SEEDS = 2


def worth_of_filling(bench: Bench, scan: Scan, codes: Sequence[Code], seed: int) -> tuple[float, float] | None:
    """Progress from the constant guess (0) to the floor (1) with the codes as they are, and with each put at the mean of the
    other values of its column and these in standard units: the best and the worst of two seeds. None if it cannot be tried.
    """
    given = scan.batches[:BATCHES]
    mended = [replaced(batch, codes[0].path, lambda t: filled(t, codes)) for batch in given]
    session = bench.session()
    if not session.can_step:
        return None
    rates = bench.peak_rates() if session.setup.scheduler is not None else ()
    raw: list[float] = []
    other: list[float] = []
    try:
        scale = scale_of(session, given[:4], seed)
        if scale is None:
            return None
        for i in range(SEEDS):
            for batches, steps, found in ((mended, STEPS, other), (given, PATIENCE * STEPS, raw)):
                pace = Pace.on(bench, PATIENCE * SECONDS, steps)
                losses = course(bench.session(), batches, steps=steps, seed=seed + i, rates=rates, pace=pace)
                found.append(scale.share(tail(losses)))
    except (UserCodeError, Skip):
        return None
    return max(raw), min(other)


def is_needed(raw: float, other: float) -> bool:
    """Whether training without the codes learns what it does not come near to with them."""
    return other >= LEARNT and raw < COPES * other


def filled(tensor: torch.Tensor, codes: Sequence[Code]) -> torch.Tensor:
    """The table with the codes filled and their columns in the units of the other values."""
    found = tensor.clone()
    for code in codes:
        (column,) = code.columns
        values = found[..., column]
        known = (values - code.mean) / code.spread
        found[..., column] = torch.where(values == code.value, torch.zeros_like(values), known)
    return found
