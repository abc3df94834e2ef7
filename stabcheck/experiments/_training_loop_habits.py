"""The part of training-loop that judges what no single step shows: an optimizer without a past, one batch all the time, a sign."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Source

if TYPE_CHECKING:
    from stabcheck.trial.loop.watched import Watched

OFTEN = 0.5
"""Share of the steps from which on something is the loop's habit and no exception, as at the start of an epoch."""
FEW = 3
"""Fewer occurrences than these may be a start (a first step, a scaler that finds its scale)."""

ANEW = Rule(
    "SC1519",
    "optimizer-built-at-each-step",
    "fail",
    message="each of {uses} steps is made by another {optimizer}: what it keeps from one step to the next (momentum, second "
    "moments, step count) is thrown away every time",
    fix="build the optimizer once, outside train_step",
)
STALE = Rule(
    "SC1520",
    "trains-on-first-batch",
    "fail",
    message="train_step was given {calls} new batches and fed the model that of its first call every time: the rest of the data "
    "is never used",
    fix="use the batch that train_step is given; next(iter(loader)) inside it starts the loader anew at each call",
)
CLIMBS = Rule(
    "SC1518",
    "step-climbs-the-loss",
    "fail",
    message="train_step calls backward() on {root:.4g} where the set-up's own loss of the same batch is {loss:.4g}: with the sign "
    "turned round, the optimizer makes the loss as large as it can",
    fix="call backward() on the loss itself, or on minus what is to be made large, and build the optimizer without maximize",
)
RULES = (ANEW, STALE, CLIMBS)


def judge(seen: Watched, source: Source | None) -> Iterator[Finding]:
    """All of them, for they have nothing to do with each other."""
    if seen.stale:
        yield STALE.at(None, source=source, calls=seen.stale)
    if seen.climbs is not None:
        root, loss = seen.climbs
        yield CLIMBS.at(None, source=source, root=root, loss=loss)
    uses = seen.uses
    places: dict[int, set[int]] = {}
    for use in uses:
        places.setdefault(use.optimizer, set()).add(use.call)
    once = all(len(calls) == 1 for calls in places.values()) and not any(use.in_closure for use in uses)
    if once and seen.remembers and len({use.call for use in uses}) >= FEW:
        yield ANEW.at(None, source=source, uses=len(uses), optimizer=seen.optimizers[0])
