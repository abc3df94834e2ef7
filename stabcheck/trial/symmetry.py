"""Units that start equal and that training cannot tell apart."""

from __future__ import annotations

import torch

from stabcheck.trial.bench import Bench
from stabcheck.trial.weights import Weight, in_model

STEPS = 40
"""Most steps taken to see the weights move; a warm-up may begin at a rate of zero."""
MOVED = 1e-3
"""Change of a weight, as a share of its norm, after which the units are looked at: far above rounding, and reached by
Adam at its usual rate within a few steps."""
SAME = 1e-2
"""Largest difference between units, as a share of how far they moved together, that is rounding: equal units drift apart by
2e-4 at most in 40 steps, units that see different gradients by .3 or more in the first."""
EXACT = 1e-6
"""The same at the start, as a share of the weights."""


def equal_units(weight: Weight, tensor: torch.Tensor | None = None) -> bool:
    """Whether all units of each part of the weight are the same."""
    rows = weight.rows_of(weight.tensor if tensor is None else tensor)
    return rows.shape[1] > 1 and _spread(rows) <= EXACT * float(rows.norm())


def _spread(rows: torch.Tensor) -> float:
    return float((rows - rows.mean(1, keepdim=True)).norm())


def never_told_apart(bench: Bench, candidates: list[Weight]) -> list[Weight]:
    """Those whose units are still the same after they moved, in a fresh set-up that takes its own steps.

    Raises:
        UserCodeError: a step failed.
        Skip: it cannot train.
    """
    session = bench.session()
    start = {i: w.rows_of(t).clone() for i, w in enumerate(candidates) if (t := in_model(session.model, w)) is not None}
    batches, alike = session.train_batches(), set[int]()
    for _ in range(STEPS):
        session.step(next(batches)[1])
        for i, before in list(start.items()):
            tensor = in_model(session.model, candidates[i])
            rows = candidates[i].rows_of(before if tensor is None else tensor)
            change = rows - before
            if float(change.norm()) <= MOVED * float(before.norm()):
                continue
            if _spread(rows) <= SAME * float(change.norm()):
                alike.add(i)
            del start[i]
        if not start or bench.remaining() < 0:
            break
    return [candidates[i] for i in sorted(alike)]
