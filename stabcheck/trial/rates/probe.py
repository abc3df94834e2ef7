"""A short training of a fresh set-up at bent rates."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.rates.bend import Bend, Plan
from stabcheck.trial.rates.edge import Edge, EdgeSearch
from stabcheck.trial.rng import seed_all
from stabcheck.userland import UserCodeError


@dataclass(frozen=True)
class Probe:
    """One short training. `repeat` 0 sees the start and the batches of the trial, others have their own."""

    factor: float
    repeat: int
    losses: tuple[float, ...]
    """Loss before each step; the last one may be infinite or NaN, which ends a probe."""
    seconds_per_step: float
    edges: tuple[Edge, ...] = ()
    why_not: str = ""
    """Why it ended before its time, if it did and the loss is still a number."""


def run_probe(
    bench: Bench,
    plan: Plan,
    factor: float,
    steps: int,
    *,
    repeat: int = 0,
    search_at: tuple[int, ...] = (),
) -> Probe:
    """Train a fresh set-up for `steps` calls of its own step at `factor` times the planned rates.

    Stops at a loss that is not finite and at the end of the bench's time. At the steps `search_at`
    it also searches along the update for the largest stable rate.

    Raises:
        Skip: building the set-up again does not fit the budget.
        UserCodeError: the user's function raised, or not even one step could be taken.
    """
    session = bench.session(bench.seed + repeat)
    if repeat:  # a set-up that seeds itself, or a loader with its own generator, would repeat its order
        seed_all(bench.seed + repeat)
        for _ in range(repeat):
            session.first_batch()
    bend, losses, why_not = Bend(session, plan, factor), list[float](), ""
    search = EdgeSearch(session, bend, bench.seed) if search_at else None
    searching = 0.0
    started = time.monotonic()
    iterator = session.train_batches()
    with bend.active():
        for index in range(steps):
            try:
                _, batch = next(iterator)
                if search is not None and index in search_at:
                    before = time.monotonic()
                    loss = search.step(batches.clone(batch))
                    searching += time.monotonic() - before
                else:
                    if search is not None:
                        search.keep(batch, wanted=index + 1 in search_at)
                    loss = session.step(batch)
            except UserCodeError as error:
                # What a bent rate or another start breaks is no fault of the user's.
                if (not losses and factor == 1 and not repeat) or error.blame == "stabcheck":
                    raise
                why_not = error.message
                break
            if loss is None:
                why_not = "train_step returns no loss"
                break
            losses.append(loss)
            if not math.isfinite(loss):
                break
            if bench.remaining() < 0:
                why_not = "the time was up"
                break
    if not bend.bent and not why_not:
        why_not = "no torch optimizer with a learning rate stepped weights of the model"
    each = (time.monotonic() - started - searching) / max(len(losses), 1)
    return Probe(factor, repeat, tuple(losses), each, tuple(search.found) if search else (), why_not)
