"""What standard units are worth to training: the same steps on the same batches, with inputs or targets standardised."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.reach import reach
from stabcheck.trial.data.scan import Scan, replaced, target_paths
from stabcheck.trial.data.short_training import Scale, changed_arguments, course, tail
from stabcheck.trial.data.units import Units, units
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import leaves
from stabcheck.userland import UserCodeError

SUSPECT = 20.0
"""A mean or a spread beyond it, or all spreads below its inverse, calls for the experiment; nothing is concluded from it.
Inputs in standard units, in 0..1, one-hot, and small integers stay within; pixels in 0..255 do not."""

STEPS = 40
"""Steps with standard units, as many as the trial has: by then most healthy set-ups have left the constant guess."""

PATIENCE = 5
"""Times as many steps for the units as they are. What gets there within it copes."""

LEARNT, COPES = 0.25, 0.5
"""Progress in standard units that shows that there is something to learn, and the share of it that shows that training
copes without them."""

BATCHES, SECONDS = 32, 8.0


@dataclass(frozen=True)
class Worth:
    """Progress from the constant guess (0) to the floor (1)."""

    raw: float | None
    """The most within `raw_steps` with the units as they are, -inf if the loss became NaN or infinite at once; None if
    standard units do not help anyway."""
    standard: float
    """After `steps` in standard units, the lower of two seeds."""
    raw_steps: int
    steps: int
    """STEPS, or PATIENCE times as many where that is too few in any units."""

    @property
    def is_needed(self) -> bool:
        """Whether standard units learn what the units as they are do not come near to in PATIENCE times the steps."""
        return self.raw is not None and self.standard >= LEARNT and self.raw < COPES * self.standard


def suspect(found: Units | None) -> bool:
    """Whether the experiment is worth its time."""
    if found is None or not bool((found.std > 0).any()):
        return False
    return found.worst > SUSPECT or found.largest_spread < 1 / SUSPECT


def suspects(session: Session, scan: Scan, seed: int) -> dict[tuple[str, str], Units]:
    """What training might be held up by."""
    taken = scan.batches[:8]
    arguments = _arguments(session, taken, seed)
    found: dict[tuple[str, str], Units] = {}
    for path, pieces in arguments.items():
        unit = units(pieces)
        if unit is not None and suspect(unit):
            found["inputs", path] = unit
    low, high = reach(session, scan.batches[0], seed)
    for path in target_paths(session.setup, scan.batches[0]):
        held = [leaves(batch).get(path) for batch in taken]
        pieces = [torch.as_tensor(h) for h in held if isinstance(h, np.ndarray) and h.dtype.kind == "f"]
        unit = units(pieces) if pieces else None
        # Where the mean is out of reach the last activation is wrong, whatever the units.
        if unit is not None and suspect(unit) and bool(((low <= unit.mean) & (unit.mean <= high)).all()):
            found["targets", path] = unit
    return found


def _arguments(session: Session, taken: Sequence[Any], seed: int) -> dict[str, list[torch.Tensor]]:
    found: dict[str, list[torch.Tensor]] = {}

    def note(path: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.dim() >= 1:
            found.setdefault(path, []).append(tensor.detach().cpu())
        return tensor

    with undisturbed(session.model), kept_rng(seed), changed_arguments(session, note):
        for batch in taken:
            try:
                session.validation_loss(batches.clone(batch))
            except (UserCodeError, Skip):
                break
            if not found:
                break  # a model of token ids, for example
    return found


Suspects = Mapping[tuple[str, str], Units]
"""("inputs", path among the model's arguments) or ("targets", path in the batch) -> the units that look odd."""


def worth(bench: Bench, scan: Scan, odd: Suspects, seed: int) -> Worth | None:
    """The experiment, with all of `odd` in standard units. None where it cannot be had: no yardstick, no time, a set-up
    that does not take standard units."""
    given = scan.batches[:BATCHES]
    session = bench.session()
    if not session.can_step:
        return None
    rates = bench.peak_rates() if session.setup.scheduler is not None else ()
    limit = min(SECONDS, 0.1 * bench.remaining())
    try:
        raw_scale = Scale(session, given[:4], seed)
        if not raw_scale.known:
            return None
        steps, standard = STEPS, _standard(bench, given, odd, seed, rates, limit, STEPS)
        if standard is not None and standard < LEARNT:  # slow in any units: then both get as many steps
            steps *= PATIENCE
            standard = _standard(bench, given, odd, seed, rates, limit, steps)
        if standard is not None and standard >= LEARNT:
            other = _standard(bench, given, odd, seed + 1, rates, limit, steps)
            standard = None if other is None else min(standard, other)
        if standard is None:
            return None
        if standard < LEARNT:
            return Worth(None, standard, 0, steps)
        best, taken = -math.inf, 0
        deadline = time.monotonic() + PATIENCE * limit / 2
        while taken < PATIENCE * STEPS and best < COPES * standard and time.monotonic() < deadline:
            losses = course(session, given, steps=STEPS, seed=seed + taken, rates=rates, deadline=deadline)
            taken += len(losses)
            best = max(best, raw_scale.progress(tail(losses)))
            if not math.isfinite(losses[-1]):
                break
    except (UserCodeError, Skip):
        return None
    return Worth(best, standard, taken, steps)


def _standard(
    bench: Bench, given: list[Any], odd: Suspects, seed: int, rates: Sequence[float], limit: float, steps: int
) -> float | None:
    """Progress with standard units; None if there is no yardstick."""
    session = bench.session()
    for (what, path), unit in odd.items():
        if what == "targets":
            given = [replaced(batch, path, unit.standard) for batch in given]
    inputs = {path: unit for (what, path), unit in odd.items() if what == "inputs"}
    with changed_arguments(session, lambda p, t: inputs[p].standard(t) if p in inputs and t.is_floating_point() else t):
        scale = Scale(session, given[:4], seed)
        deadline = time.monotonic() + limit
        losses = course(session, given, steps=steps, seed=seed, rates=rates, deadline=deadline)
    return scale.progress(tail(losses)) if scale.known else None
