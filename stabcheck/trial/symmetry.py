"""Units that start equal and that training cannot tell apart."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from stabcheck.trial.batches import map_tensors
from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import before_steps
from stabcheck.trial.weights import Weight, in_model
from stabcheck.userland import UserCodeError

STEPS = 40
"""Most steps taken to see the weights move; a warm-up may begin at a rate of zero."""
LEAST_STEPS = 5
"""Fewest steps looked at."""
MOVED = 1e-3
"""Change of a weight, as a share of its norm, after which its units are compared: far above rounding."""
SAME = 1e-2
"""Largest difference between units, as a share of their common change or gradient, that is rounding. Equal units of 8 networks
came to 1e-4 at most at 3 seeds; units that dropout tells apart to 0.18 at least, and that their outputs do to 0.4."""
EXACT = 1e-6
"""The same at the start, as a share of the weights."""


def equal_units(weight: Weight) -> bool:
    """Whether all units of each part of the weight are the same."""
    rows = weight.rows
    return rows.shape[1] > 1 and _are_same(rows, rows, EXACT)


def _are_same(rows: torch.Tensor, scale: torch.Tensor, share: float) -> bool:
    return float((rows - rows.mean(1, keepdim=True)).norm()) <= share * float(scale.norm())


def never_told_apart(bench: Bench, candidates: list[Weight]) -> list[Weight]:
    """Those whose units get the same gradient at every step, and are still the same when they have moved, in a fresh set-up
    that takes its own steps. Adam's first steps have the size of the rate whatever the gradients are, so that weights
    alone say too little. Those whose first gradients are equal and the later ones are not are tried again in float64: what
    Adam makes of rounding tells units apart in time, and too late.

    Raises:
        UserCodeError: a step failed.
        Skip: it cannot train.
    """
    alike, suspects = _followed(bench, candidates)
    if alike or not suspects:
        return alike
    with contextlib.suppress(UserCodeError):  # code that mixes types
        return _followed(bench, suspects, precise=True)[0]
    return []


def _followed(bench: Bench, candidates: list[Weight], *, precise: bool = False) -> tuple[list[Weight], list[Weight]]:
    """(those never told apart, those that at least had equal first gradients)"""
    session = bench.session()
    if precise:
        session.model.double()
    start = {i: w.rows_of(t).clone() for i, w in enumerate(candidates) if (t := in_model(session.model, w)) is not None}
    apart, alike, first = set[int](), set[int](), dict[int, bool]()

    def compare_gradients(optimizer: Any) -> None:
        for i in start:
            tensor = in_model(session.model, candidates[i])
            if isinstance(tensor, nn.Parameter) and tensor.grad is not None:
                rows = candidates[i].rows_of(tensor.grad)
                same = _are_same(rows, rows, SAME)
                if not same:
                    apart.add(i)
                if bool(rows.any()):
                    first.setdefault(i, same)

    with before_steps(session.model.parameters(), compare_gradients):
        batches = session.train_batches()
        for step in range(1, STEPS + 1):
            batch = next(batches)[1]
            session.step(map_tensors(batch, _in_float64) if precise else batch)
            moved = set()
            for i, before in start.items():
                tensor = in_model(session.model, candidates[i])
                rows = candidates[i].rows_of(before if tensor is None else tensor)
                if float((rows - before).norm()) > MOVED * float(before.norm()):
                    moved.add(i)
                    (alike.add if _are_same(rows, rows - before, SAME) else apart.add)(i)
            if len(moved | apart) == len(start) and (step >= LEAST_STEPS or len(apart) == len(start)):
                break
            if bench.remaining() < 0:
                return [], []
    return [candidates[i] for i in sorted(alike - apart)], [candidates[i] for i in sorted(apart) if first.get(i)]


def _in_float64(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
