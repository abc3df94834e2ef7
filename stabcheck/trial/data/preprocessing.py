"""Validation inputs that were preprocessed differently from training inputs, and what undoing it does to the validation loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from stabcheck.check import Skip
from stabcheck.setup import TrainingSetup
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.drift import READING_SECONDS, drift, first_samples
from stabcheck.trial.data.scan import Scan, input_paths, replaced
from stabcheck.trial.data.short_training import course, level, scale_of
from stabcheck.trial.data.units import Units, units
from stabcheck.trial.pace import Pace
from stabcheck.trial.split.fields import leaves
from stabcheck.userland import UserCodeError

RATIO, SHIFT = 1.5, 0.5
"""Ratio of spreads, and difference of means in spreads, from which on two sides are looked at; nothing is concluded."""

ELEMENTS = 1024
FEWEST = 24
"""Samples of a side below which its units are not known well enough."""

EACH = 25
"""Steps between two looks at the losses."""

JUDGED = 256
"""Samples of each side on which losses are compared."""

STEPS, SECONDS = 150, 8.0
"""Training before the validation loss means something, and the time that it may take."""

LEARNT = 0.3
"""Progress on training samples from which on it does."""

SPOILT, CURED = 0.25, 0.5
"""Shares of the progress on training samples: below the one validation is spoilt, above the other its repair worked."""

GAIN, UNMOVED = 0.2, 0.02
"""Share of the progress on training samples that a repair is worth if it matters, and progress that it is worth if not."""

CLOSE = 0.15
"""Difference of means and of log spreads, in spreads, up to which two sides agree."""

MOST = 2 / 3
"""Share of the features that must follow one map: those that hardly ever vary are not known well."""

Repair = Callable[[torch.Tensor], torch.Tensor]


BEYOND = 3.0
"""Times what two stretches of the training data differ by, up to which validation may differ by itself: data that is ordered
by time, place or person drifts."""

EXTREME = 2.0
"""Ratio of spreads, or difference of means in spreads, that sampling and augmentation do not bring about in all features
alike: random gains and mixing change spreads by half."""


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

    @property
    def is_extreme(self) -> bool:
        """Whether the difference is one of units, and not of samples."""
        return max(self.ratio, 1 / self.ratio) >= EXTREME or self.shift >= EXTREME

    def exceeds(self, drift: tuple[float, float]) -> bool:
        """Whether it is far beyond a (ratio, shift) within the training data."""
        ratio, shift = drift
        return (
            abs(math.log(self.ratio)) > BEYOND * math.log(ratio) + math.log(RATIO)
            or self.shift > BEYOND * shift + SHIFT
        )


def suspicions(bench: Bench, setup: TrainingSetup, train: Scan, val: Scan) -> list[Suspicion]:
    """The input leaves of fractions whose units differ between the sides.

    Raises:
        Skip: reading more of the training data takes too long.
    """
    found = []
    common = set(leaves(val.batches[0]))
    for path in input_paths(setup, train.batches[0]):
        if path not in common:
            continue
        sides = [first_samples(scan, path) for scan in (train, val)]
        if not all(sides) or min(sum(map(len, side)) for side in sides) < FEWEST:
            continue
        if not sides[0][0].is_floating_point() or sides[0][0].dim() < 2:
            continue
        one, two = (units(side) for side in sides)
        if one is None or two is None or one.axis != two.axis or one.mean.shape != two.mean.shape:
            continue
        suspicion = compare(path, one, two, elements(sides[0]), elements(sides[1]))
        if suspicion is not None and suspicion.exceeds(drift(setup, train, path, Pace.on(bench, READING_SECONDS))):
            found.append(suspicion)
    return found


def elements(pieces: list[torch.Tensor]) -> Units | None:
    """The units of each element of a sample, of ELEMENTS of them where there are more; None where sizes differ."""
    if len({tuple(t.shape[1:]) for t in pieces}) != 1:
        return None
    rows = torch.cat([t.reshape(len(t), -1) for t in pieces])
    return units([rows[:, :: -(-rows.shape[1] // ELEMENTS)]])


def compare(path: str, one: Units, two: Units, *each: Units | None) -> Suspicion | None:
    """How the units of validation differ from training's; None if they do not. `each`: those of single elements, which
    tell one map for all of them from a shift of the data."""
    train, val = one, two
    if len(each) == 2 and each[0] and each[1] and each[0].mean.shape == each[1].mean.shape:
        train, val = each[0], each[1]
    mt, st, mv, sv = (v.reshape(-1) for v in (train.mean, train.std, val.mean, val.std))
    varying = (st > 0) & (sv > 0)
    if not bool(varying.any()):
        return None
    mt, st, mv, sv = (v[varying] for v in (mt, st, mv, sv))
    ratios = sv / st
    ratio, shift = float(ratios.median()), float(((mv - mt) / st).abs().median())
    if max(ratio, 1 / ratio) <= RATIO and shift <= SHIFT:
        return None
    # A map shared by all elements, x -> a x + b, shows in their means and spreads together.
    a = float(ratios.log().median().exp())
    b = float((mv - a * mt).median())
    fits = ((ratios.log() - math.log(a)).abs() < CLOSE) & ((mv - a * mt - b).abs() < CLOSE * sv)
    identified = ""
    if float(fits.double().mean()) >= MOST:
        identified = f"validation is {a:.4g} times training {'plus' if b >= 0 else 'minus'} {abs(b):.3g}"
    elif _is_standard(one) and not _is_standard(two):
        identified = "training is standardised (mean 0, standard deviation 1 in every feature), validation is not"
    elif _is_standard(two) and not _is_standard(one):
        identified = "validation is standardised (mean 0, standard deviation 1 in every feature), training is not"
    return Suspicion(path, one, two, ratio, shift, identified, lambda t: two.into(one, t.float()))


def _is_standard(found: Units) -> bool:
    mean, std = found.mean.reshape(-1), found.std.reshape(-1)
    mean, std = mean[std > 0], std[std > 0]
    return len(std) > 1 and bool((mean.abs() < CLOSE).all() and (std.log().abs() < CLOSE).all())


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

    @property
    def is_better(self) -> bool:
        """Whether the repair brings validation much nearer to training."""
        train, val, repaired = self.progress
        return train >= LEARNT and repaired - val >= GAIN * train

    @property
    def is_no_matter(self) -> bool:
        """Whether the set-up does not see the difference, as with inputs that the model normalises itself."""
        return abs(self.progress.repaired - self.progress.val) < UNMOVED


def undo(bench: Bench, train: Scan, val: Scan, repairs: dict[str, Repair], seed: int) -> Undone:
    """Train for a while and validate twice, once with the leaves repaired.

    Raises:
        Skip: it cannot be had: no yardstick, no time, a set-up that cannot be trained.
    """
    session = bench.session()
    if not session.can_step:
        raise Skip("no optimizer given: add 'optimizer' or 'train_step' to the set-up")
    judged = batches.holding(val.batches, JUDGED)
    mended = judged
    for path, repair in repairs.items():
        mended = [replaced(batch, path, repair) for batch in mended]
    own = batches.holding(train.batches, JUDGED)
    rates = bench.peak_rates() if session.setup.scheduler is not None else ()
    try:
        scale = scale_of(session, own, seed)
        if scale is None:
            raise Skip("no constant guess is known to compare with")
        endless = itertools.cycle(train.batches)
        pace = Pace.on(bench, SECONDS, STEPS)
        while not pace.is_cut and pace.taken < pace.most:
            some = itertools.islice(endless, EACH)
            course(session, some, steps=EACH, seed=seed + pace.taken, rates=rates, pace=pace)
            on = Levels(*(level(session, which, seed) for which in (own, judged, mended)))
            progress = Levels(*(scale.share(loss) for loss in on))
            if progress.train >= 2 * LEARNT and progress.repaired >= LEARNT:
                break
    except UserCodeError as error:
        raise Skip(f"the set-up could not be trained ({error})") from None
    if progress.train < LEARNT and pace.most < STEPS:
        raise Skip(f"the {pace.taken} steps that there is time for teach it too little")
    return Undone(on, progress, pace.taken)
