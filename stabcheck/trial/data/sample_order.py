"""The order in which training samples come: whether batches hold one kind each, and what mixing them is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.scan import Scan, scalar_targets
from stabcheck.trial.data.short_training import course, level, scale_of
from stabcheck.trial.pace import Pace
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.split.samples import unbatched
from stabcheck.userland import UserCodeError

Array = np.ndarray[Any, Any]

SHUFFLES = 50
"""Random orders of the targets that what is found is compared with."""

FEWEST_BATCHES = 4
"""Batches below which an order means little: each is seen too often."""

JUDGED = 256
"""Samples of all kinds on which both arms are judged."""

LEARNT, WORSE = 0.2, 0.8
"""Progress in random order from which on the other order can be compared with it, and the share of it that two random
orders always have in common."""

HARMFUL = ((LEARNT, 0.25), (0.5, 0.5))
"""(progress in random order, share of it that the order of the loader stays below). A healthy order is worth as much."""

STEPS, SECONDS = 300, 3.0
"""Steps that an arm takes at most, and the time that they may take."""


@dataclass(frozen=True)
class Order:
    """How much of what differs between targets differs between batches, and not within them."""

    between: float
    """Share of the targets' variance (for classes: of their indicators) that lies between batches, 0 to 1."""
    by_chance: float
    """The largest such share among SHUFFLES random orders."""
    one_class: float | None
    """Share of the batches that hold one class only; None if targets are no classes."""
    kinds: int
    """Distinct targets seen."""
    complete: bool
    """Whether they were seen in the order of the loader over a whole pass."""

    @property
    def sorted(self) -> float:
        """`between`, with chance at 0."""
        return (self.between - self.by_chance) / max(1e-9, 1 - self.by_chance)


def order(session: Session, scan: Scan) -> Order | None:
    """How sorted the targets come; None where there is no single target, or too few batches or kinds."""
    parts, classes = (scan.labels, True) if scan.labels else (scan.values, False)
    sizes = [len(part) for part in parts]
    if not scan.whole and classes and len(np.unique(np.concatenate(parts))) < 2:
        return _of_a_start(session, scan)
    if len(parts) < FEWEST_BATCHES or np.median(sizes) < 4:
        return None
    values = np.concatenate(parts)
    kinds = len(np.unique(values))
    if kinds < 2 or (classes and kinds > len(values) / 4):
        classes = False
    if kinds < 2:
        return None
    owner = np.repeat(np.arange(len(parts)), sizes)
    rng = np.random.default_rng(0)
    points = _points(values, classes=classes)
    chance = max(_between(points[rng.permutation(len(points))], owner) for _ in range(SHUFFLES))
    pure = float(np.mean([len(np.unique(part)) == 1 for part in parts])) if classes else None
    return Order(_between(points, owner), chance, pure, kinds, scan.whole)


def _points(values: Array, *, classes: bool) -> Array:
    """(n, k): indicators of the classes, or ranks, on which outliers have no say."""
    if classes:
        return np.asarray(values[:, None] == np.unique(values)[None], float)
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)[:, None]


def _between(points: Array, owner: Array) -> float:
    centred = points - points.mean(axis=0)
    counts = np.bincount(owner)
    sums = np.stack([np.bincount(owner, column) for column in centred.T], axis=1)
    total = float((centred**2).sum())
    return float((sums**2 / counts[:, None]).sum()) / total if total > 0 else 0.0


def _of_a_start(session: Session, scan: Scan) -> Order | None:
    """One class in all that was read: is it the only one? Look at samples all over the data."""
    mixed = reshuffled(session, scan, seed=0)
    found = _targets(session, mixed, 2) if mixed is not None else []
    kinds = len(np.unique(np.concatenate(found))) if found else 0
    return Order(1.0, 0.0, 1.0, kinds, complete=False) if kinds > 1 else None


def _targets(session: Session, mixed: Any, count: int) -> list[Array]:
    found = []
    for batch, _ in zip(mixed, range(count), strict=False):
        values = scalar_targets(session.setup, batch)
        if values is not None:
            found.append(values)
    return found


def is_given_order(loader: Any) -> bool:
    """Whether nobody chose the order: a plain sequential loader, or a list of batches. A sampler of the user's, a batch
    sampler and a stream have an order on purpose."""
    if not isinstance(loader, DataLoader):
        return isinstance(loader, (list, tuple))
    return (
        not isinstance(loader.dataset, IterableDataset)
        and type(loader.sampler) is SequentialSampler
        and (type(loader.batch_sampler) is BatchSampler)
    )


def reshuffled(session: Session, scan: Scan, seed: int) -> Any:
    """Batches of the same samples in random order, re-iterable; None where they cannot be mixed."""
    loader = session.setup.train_loader
    if isinstance(loader, DataLoader) and is_given_order(loader):
        return DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            shuffle=True,
            drop_last=loader.drop_last,
            collate_fn=loader.collate_fn,
            generator=torch.Generator().manual_seed(seed),
        )
    return _mixed(scan, seed) if scan.kept_all else None


def _mixed(scan: Scan, seed: int) -> list[Any] | None:
    """The batches of a list with their samples mixed."""
    rows = [row for batch in scan.batches for row in unbatched(batch)]
    if len(rows) != scan.samples:
        return None
    rng = np.random.default_rng(seed)
    mixed = [rows[i] for i in rng.permutation(len(rows))]
    ends = np.cumsum(scan.sizes)
    try:
        made = [torch.utils.data.default_collate(mixed[e - s : e]) for s, e in zip(scan.sizes, ends, strict=True)]
    except (TypeError, RuntimeError):
        return None
    return [tuple(b) if isinstance(scan.batches[0], tuple) and isinstance(b, list) else b for b in made]


@dataclass(frozen=True)
class Worth:
    """Progress on samples of all kinds after the same number of steps, as 0 (constant guess) to 1 (floor)."""

    as_given: float
    mixed: float
    steps: int
    loss_as_given: float
    loss_mixed: float

    @property
    def is_harmful(self) -> bool:
        """Whether there is something to learn, and little of it is learnt in the order of the loader."""
        return any(self.mixed >= learnt and self.as_given < spoilt * self.mixed for learnt, spoilt in HARMFUL)

    @property
    def is_worse(self) -> bool:
        """Whether random order is better for certain, by however much."""
        return self.mixed >= LEARNT and self.as_given < WORSE * self.mixed


def worth_of_mixing(bench: Bench, scan: Scan, seed: int) -> Worth | None:
    """Train in the loader's order and in random order, pass by pass, until the second has learnt something or STEPS are
    taken; None if it cannot be had.

    Raises:
        Skip: the set-up does not say how it trains, or there is no time to find out.
    """
    first, second = bench.session(), bench.session()
    if not first.can_step:
        raise Skip("no optimizer given: add 'optimizer' or 'train_step' to the set-up")
    probes, mixed = reshuffled(first, scan, seed + 1), reshuffled(second, scan, seed)
    if probes is None or mixed is None:
        return None
    each = min(STEPS, first.steps_per_epoch or STEPS)
    try:
        with kept_rng(0):
            judged = batches.holding(probes, JUDGED)
        scale = scale_of(first, judged, seed)
        if scale is None:
            return None
        pace, steps = Pace.on(bench, SECONDS, STEPS), 0
        while True:
            given = course(first, _Epoch(first), steps=each, seed=seed + steps, pace=pace)
            course(second, mixed, steps=len(given), seed=seed + steps)
            steps += len(given)
            losses = level(first, judged, seed), level(second, judged, seed)
            worth = Worth(scale.share(losses[0]), scale.share(losses[1]), steps, *losses)
            done = worth.is_harmful or worth.mixed >= HARMFUL[-1][0]
            if done or steps + each > pace.most:
                if worth.mixed < LEARNT and pace.most < STEPS:
                    raise Skip(f"the {steps} steps that there is time for teach it too little")
                return worth
    except UserCodeError:
        return None


class _Epoch:
    """A loader as something that can be gone through."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __iter__(self) -> Iterator[Any]:
        return self.session.epoch("train_loader")
