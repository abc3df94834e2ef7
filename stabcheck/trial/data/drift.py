"""How much the training data itself changes from its beginning to its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stabcheck.setup import TrainingSetup
from stabcheck.trial.data.scan import Scan
from stabcheck.trial.data.units import units
from stabcheck.trial.pace import Pace
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.split.fields import leaves
from stabcheck.trial.split.samples import behind
from stabcheck.userland import UserCodeError

SAMPLES = 1024
"""Samples of a loader that its units are taken of."""

BLOCKS, READ, READING_SECONDS = 6, 512, 1.0
"""Stretches of the training data, in the order of the dataset, that are compared with each other; samples read for it, and the
time that this may take."""


def drift(setup: TrainingSetup, train: Scan, path: str, pace: Pace) -> tuple[float, float]:
    """(ratio of spreads, difference of means in spreads) between the two most different of BLOCKS stretches of the training
    data, at the median feature, beyond what stretches of shuffled data differ by."""
    rows = _in_order(setup.train_loader, path, pace)
    if rows is None:
        rows = torch.cat(first_samples(train, path)).float()
    mixed = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    (ratio, shift), (by_chance, shift_by_chance) = _between_blocks(rows), _between_blocks(mixed)
    return max(1.0, ratio / by_chance), max(0.0, shift - shift_by_chance)


def _between_blocks(rows: torch.Tensor) -> tuple[float, float]:
    every = units([rows])
    blocks = [found for part in rows.chunk(BLOCKS) if len(part) > 1 and (found := units([part])) is not None]
    if every is None or len(blocks) < 2:
        return 1.0, 0.0
    spread = every.std.reshape(-1)
    varying = spread > 0
    if not bool(varying.any()):
        return 1.0, 0.0
    means = torch.stack([block.mean.reshape(-1)[varying] for block in blocks])
    spreads = torch.stack([block.std.reshape(-1)[varying] for block in blocks]).clamp_min(1e-3 * spread[varying])
    shift = (means.amax(0) - means.amin(0)) / spread[varying]
    return float((spreads.amax(0) / spreads.amin(0)).median()), float(shift.median())


def _in_order(loader: Any, path: str, pace: Pace) -> torch.Tensor | None:
    """A leaf of training samples in the order of their dataset; None where it cannot be read by index."""
    found: dict[int, torch.Tensor] = {}
    try:
        with kept_rng():
            source = behind(loader, "train_loader")
            if source.style != "items":
                return None
            for position in pace.through(_coarse_to_fine(len(source.indices))):
                leaf = leaves(source.read(source.indices[position])).get(path)
                if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "fiu":
                    return None
                found[position] = torch.as_tensor(np.array(leaf, dtype=np.float32))
    except UserCodeError:
        return None
    pace.require_in_time()
    same = len({tensor.shape for tensor in found.values()}) == 1 and len(found) >= 2 * BLOCKS
    return torch.stack([found[position] for position in sorted(found)]) if same else None


def _coarse_to_fine(count: int) -> list[int]:
    """Up to READ positions of `count`: the first 2, 4, 8 ... of them are spread evenly (van der Corput 1935)."""
    digits = READ.bit_length() - 1
    reversed_bits = [int(f"{i:0{digits}b}"[::-1], 2) for i in range(READ)]
    return list(dict.fromkeys(i * count // READ for i in reversed_bits))


def first_samples(scan: Scan, path: str) -> list[torch.Tensor]:
    """A leaf of the first SAMPLES samples, batch by batch; empty where it holds no numbers."""
    taken: list[torch.Tensor] = []
    for leaf in scan.column(path):
        if leaf.dtype.kind not in "fiu":
            return []
        taken.append(torch.as_tensor(np.ascontiguousarray(leaf)))
        if sum(len(t) if t.dim() else 0 for t in taken) >= SAMPLES:
            break
    return taken
