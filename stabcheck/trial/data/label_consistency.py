"""Whether an input keeps its label from one pass over the loader to the next."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.trial import batches
from stabcheck.trial.data.scan import Scan, class_labels, input_paths, target_paths
from stabcheck.trial.pace import Pace
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import leaves

FEWEST = 40
"""Inputs met again, below which nothing is said."""


@dataclass(frozen=True)
class Pairing:
    """How often inputs that were met in both passes had the same label in both."""

    met: int
    agreeing: float
    """Share of them with equal labels."""
    by_chance: float
    """What labels that have nothing to do with the inputs would give."""
    certain: bool
    """Whether what was taken for the label is the target for certain."""

    @property
    def is_broken(self) -> bool:
        """Whether agreement is what chance gives and far from what one label for each input gives.

        Four standard errors to either side: neither in 10,000 sound pairings, and no noise on labels that leaves half of
        the relation, comes so low.
        """
        error = math.sqrt(max(self.by_chance * (1 - self.by_chance), 1e-4) / max(1, self.met))
        return (
            self.met >= FEWEST
            and self.agreeing <= self.by_chance + 4 * error
            and self.by_chance + 8 * error < 1
            and self.agreeing < (1 + self.by_chance) / 2
        )


def pairing(session: Session, scan: Scan, pace: Pace, seed: int) -> Pairing | None:
    """Read the loader again, as far as `pace` goes, and look up each input's label of the first pass; None without classes,
    or where too few inputs come again with the same content, as under augmentation."""
    if not scan.labels:
        return None
    first, doubtful = _known(session, scan)
    if len(first) < FEWEST:
        return None
    agreed, old, new = 0, [], []
    with kept_rng(seed + 1):
        for batch in pace.through(session.epoch("train_loader")):
            for content, label in _rows(session, batch):
                if content in first and content not in doubtful:
                    agreed += first[content] == label
                    old.append(first[content])
                    new.append(label)
    if not old:
        return None
    one, two = (np.unique(np.asarray(side), return_counts=True) for side in (old, new))
    shares = {int(k): c / len(old) for k, c in zip(*one, strict=True)}
    by_chance = sum(shares.get(int(k), 0.0) * c / len(new) for k, c in zip(*two, strict=True))
    certain = bool(target_paths(session.setup, scan.batches[0]))
    return Pairing(len(old), agreed / len(old), float(by_chance), certain)


def _known(session: Session, scan: Scan) -> tuple[dict[bytes, int], set[bytes]]:
    """The label of each content in the first pass, and the contents that came with two labels in it."""
    found: dict[bytes, int] = {}
    doubtful: set[bytes] = set()
    for batch in scan.batches:
        for content, label in _rows(session, batch):
            if found.setdefault(content, label) != label:
                doubtful.add(content)
    return found, doubtful


def _rows(session: Session, batch: Any) -> list[tuple[bytes, int]]:
    labels = class_labels(session.setup, batch)
    if labels is None:
        return []
    held, count = leaves(batch), batches.size(batch)
    columns = [held[path] for path in input_paths(session.setup, batch)]
    arrays = [np.ascontiguousarray(c) for c in columns if isinstance(c, np.ndarray) and c.ndim and len(c) == count]
    if not arrays or sum(a[0].size for a in arrays) < 2:
        return []
    return [
        (hashlib.blake2b(b"".join(a[i].tobytes() for a in arrays), digest_size=16).digest(), int(label))
        for i, label in enumerate(labels.tolist())
    ]
