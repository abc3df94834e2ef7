"""Weights of classes, in a sampler or in the loss, beside how many samples the classes have."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

from stabcheck.trial import batches
from stabcheck.trial.data.scan import Scan, class_labels
from stabcheck.trial.loss_contract.observe import one_pass
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, userland

MOST_VALUES, PER_VALUE = 50, 8
"""Distinct weights that may stand for classes, and samples of each that are read to see whether they do."""
SECONDS = 0.5
TWICE = 2.0
"""Factor by which classes and weights must differ: less is a matter of taste."""


@dataclass(frozen=True)
class Inverted:
    """Weights that grow with the number of samples."""

    where: str
    rare: int
    frequent: int
    rare_share: float
    share: float
    """Of the samples, before any weighting."""
    ratio: float
    """Weight of a sample of the frequent class over that of one of the rare class."""


def inverted(session: Session, scan: Scan, drawn: Mapping[int, int], seed: int) -> Inverted | None:
    """Weights, of the sampler or of the loss, that take from the rare classes and give to the frequent ones."""
    loader: Any = session.setup.train_loader
    sampler = getattr(loader, "sampler", None)
    if isinstance(loader, DataLoader) and isinstance(sampler, WeightedRandomSampler) and loader.batch_size is not None:
        return _of_sampler(session, loader, sampler, seed)
    weights = _of_loss(session, scan, seed)
    total = sum(drawn.values())
    if weights is None or total == 0 or not all(0 <= kind < len(weights) for kind in drawn):
        return None
    return _judged("the loss", {kind: (count / total, weights[kind]) for kind, count in drawn.items()})


def _of_sampler(
    session: Session, loader: DataLoader[Any], sampler: WeightedRandomSampler, seed: int
) -> Inverted | None:
    given = torch.as_tensor(sampler.weights).double().flatten()
    values, place, counts = given.unique(return_inverse=True, return_counts=True)
    if not 2 <= len(values) <= MOST_VALUES or len(given) != len(loader.dataset):  # type: ignore[arg-type]
        return None
    classes: dict[int, tuple[float, float]] = {}
    until = time.monotonic() + SECONDS
    for index, value in enumerate(values.tolist()):
        held = (place == index).nonzero().flatten()
        some = held[:: max(1, len(held) // PER_VALUE)][:PER_VALUE].tolist()
        with kept_rng(seed), userland("train_loader"):
            batch = loader.collate_fn([loader.dataset[i] for i in some])
        labels = class_labels(session.setup, batch)
        kinds = set(labels.tolist()) if labels is not None else set()
        if len(kinds) != 1 or time.monotonic() > until:
            return None  # not the classes are weighted
        kind, share = kinds.pop(), int(counts[index]) / len(given)
        before, weight = classes.get(kind, (0.0, 0.0))
        classes[kind] = before + share, (before * weight + share * value) / (before + share)
    return _judged("the sampler", classes)


def _of_loss(session: Session, scan: Scan, seed: int) -> list[float] | None:
    """The weight of each class in the loss of the first batch."""
    if not scan.batches or (session.setup.loss_fn is None and session.setup.compute_loss is None):
        return None
    try:
        with undisturbed(session.model), kept_rng(seed):
            seen = one_pass(session, session.placed(batches.clone(scan.batches[0])))
    except UserCodeError:
        return None
    for call, _ in seen.supervised:
        weight, positive = (call.options.get(key) for key in ("weight", "pos_weight"))
        if call.name in {"cross_entropy", "nll_loss"} and isinstance(weight, torch.Tensor) and weight.ndim == 1:
            return [float(w) for w in weight.tolist()]
        if isinstance(positive, torch.Tensor) and positive.numel() == 1:
            return [1.0, float(positive)]
    return None


def _judged(where: str, classes: Mapping[int, tuple[float, float]]) -> Inverted | None:
    if len(classes) < 2:
        return None
    frequent = max(classes, key=lambda kind: classes[kind][0])
    share, weight = classes[frequent]
    rare = {kind: (s, w) for kind, (s, w) in classes.items() if TWICE * s <= share}
    if not rare or any(TWICE * w > weight for _, w in rare.values()):
        return None
    least = min(rare, key=lambda kind: rare[kind][0])
    of, its = rare[least]
    return Inverted(where, least, frequent, of, share, weight / its if its > 0 else float("inf"))
