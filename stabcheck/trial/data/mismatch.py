"""Validation inputs that were prepared otherwise than training inputs, and what undoing it does to the validation loss."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from stabcheck.check import Skip
from stabcheck.setup import TrainingSetup
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.paired import Scale, course, level
from stabcheck.trial.data.scan import Scan, input_paths, replaced
from stabcheck.trial.data.units import Units, units
from stabcheck.trial.split.fields import leaves
from stabcheck.userland import UserCodeError

RATIO, SHIFT = 1.5, 0.5
"""Ratio of spreads, and difference of means in spreads, from which on two sides are looked at; nothing is concluded."""

SAMPLES = 1024
FEWEST = 24
"""Samples of a side below which its units are not known well enough."""

STEPS, SECONDS = 150, 8.0
"""Training before the validation loss means something."""

LEARNT = 0.3
"""Progress on training samples from which on it does."""

SPOILT, CURED = 0.25, 0.5
"""Shares of the progress on training samples: below the one validation is spoilt, above the other its repair worked."""

CLOSE = 0.15
"""Difference of means and of log spreads, in spreads, up to which two sides agree."""

Repair = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Suspicion:
    """A leaf whose units differ, and the map that would explain it."""

    path: str
    train: Units
    val: Units
    ratio: float
    """Spread of validation over spread of training, at the median feature."""
    shift: float
    """Difference of the means at the median feature, in training spreads."""
    identified: str
    """What maps one side onto the other; empty if it is no simple map."""
    repair: Repair


def suspicions(setup: TrainingSetup, train: Scan, val: Scan) -> list[Suspicion]:
    """The input leaves of fractions whose units differ between the sides."""
    found = []
    common = set(leaves(val.batches[0]))
    for path in input_paths(setup, train.batches[0]):
        if path not in common:
            continue
        sides = [_tensors(scan, path) for scan in (train, val)]
        if not all(sides) or min(sum(map(len, side)) for side in sides) < FEWEST:
            continue
        if not sides[0][0].is_floating_point() or sides[0][0].dim() < 2:
            continue
        one, two = (units(side) for side in sides)
        if one is None or two is None or one.axis != two.axis or one.mean.shape != two.mean.shape:
            continue
        suspicion = compare(path, one, two)
        if suspicion is not None:
            found.append(suspicion)
    return found


def _tensors(scan: Scan, path: str) -> list[torch.Tensor]:
    taken: list[torch.Tensor] = []
    for leaf in scan.column(path):
        if leaf.dtype.kind not in "fiu":
            return []
        taken.append(torch.as_tensor(np.ascontiguousarray(leaf)))
        if sum(len(t) if t.dim() else 0 for t in taken) >= SAMPLES:
            break
    return taken


def compare(path: str, one: Units, two: Units) -> Suspicion | None:
    """How the units of validation differ from training's; None if they do not."""
    mt, st, mv, sv = (v.reshape(-1) for v in (one.mean, one.std, two.mean, two.std))
    varying = (st > 0) & (sv > 0)
    if not bool(varying.any()):
        return None
    mt, st, mv, sv = (v[varying] for v in (mt, st, mv, sv))
    ratios, shifts = sv / st, (mv - mt) / st
    ratio, shift = float(ratios.median()), float(shifts.abs().median())
    # A map shared by all features, x -> a x + b, shows in their means and spreads together.
    a = float((sv / st).log().mean().exp())
    b = float((mv - a * mt).mean())
    shared = bool((((sv / st).log() - np.log(a)).abs() < CLOSE).all() and ((mv - a * mt - b).abs() < CLOSE * sv).all())
    standard = [bool((m.abs() < CLOSE).all() and (s.log().abs() < CLOSE).all()) for m, s in ((mt, st), (mv, sv))]
    odd = max(ratio, 1 / ratio) > RATIO or shift > SHIFT
    if not odd:
        return None
    identified = ""
    if standard[0] and not standard[1] and len(mt) > 1:
        identified = "training is in standard units (mean 0, spread 1 in every feature), validation is not"
    elif standard[1] and not standard[0] and len(mt) > 1:
        identified = "validation is in standard units (mean 0, spread 1 in every feature), training is not"
    elif shared:
        identified = f"validation is {a:.4g} times training {'plus' if b >= 0 else 'minus'} {abs(b):.3g}"
    return Suspicion(path, one, two, ratio, shift, identified, lambda t: two.into(one, t.float()))


class Levels(NamedTuple):
    """One number for training samples, validation samples, and these repaired."""

    train: float
    val: float
    repaired: float


@dataclass(frozen=True)
class Undone:
    """Losses in eval mode after some training."""

    loss: Levels
    progress: Levels
    """From constant guess (0) to floor (1)."""
    steps: int

    @property
    def is_cured(self) -> bool:
        """Validation is next to a constant guess, and repaired it comes at least halfway to training."""
        train, val, repaired = self.progress
        return train >= LEARNT and val < SPOILT * train and repaired >= CURED * train


def undo(bench: Bench, train: Scan, val: Scan, repairs: dict[str, Repair], seed: int) -> Undone | None:
    """Train for a while and validate twice, once with the leaves repaired; None if it cannot be had."""
    session = bench.session()
    if not session.can_step:
        return None
    limit = min(SECONDS, 0.1 * bench.remaining())
    deadline = time.monotonic() + limit
    judged = _some(val.batches)
    mended = judged
    for path, repair in repairs.items():
        mended = [replaced(batch, path, repair) for batch in mended]
    own = _some(train.batches)
    rates = bench.peak_rates() if session.setup.scheduler is not None else ()
    try:
        scale = Scale(session, own, seed)
        if not scale.known:
            return None
        steps = 0
        endless = itertools.cycle(train.batches)
        while steps < STEPS and time.monotonic() < deadline:
            losses = course(
                session, itertools.islice(endless, 25), steps=25, seed=seed + steps, rates=rates, deadline=deadline
            )
            steps += len(losses)
            on = Levels(*(level(session, which, seed) for which in (own, judged, mended)))
            progress = Levels(*(scale.progress(loss) for loss in on))
            if progress.train >= 2 * LEARNT and progress.repaired >= LEARNT:
                break
    except (UserCodeError, Skip):
        return None
    return Undone(on, progress, steps)


def _some(given: list[Any]) -> list[Any]:
    taken: list[Any] = []
    for batch in given:
        taken.append(batch)
        if sum(map(batches.size, taken)) >= 256:
            break
    return taken
