"""What standard units are worth to training: the same steps on the same batches, with inputs or targets standardised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from stabcheck.check import Skip
from stabcheck.reading import Scale
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.data.reach import reach
from stabcheck.trial.data.scan import Scan, replaced, target_paths
from stabcheck.trial.data.short_training import changed_arguments, course, scale_of, tail
from stabcheck.trial.data.units import Units, units
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.pace import Pace
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

BATCHES, SECONDS = 32, 4.0
"""Batches that are trained on, and the time for STEPS on them."""


What = Literal["inputs", "targets"]


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


def suspects(session: Session, scan: Scan, seed: int) -> dict[tuple[What, str], Units]:
    """("inputs", path among the model's arguments) or ("targets", path in the batch) -> the units that look odd."""
    taken = scan.batches[:8]
    arguments = _arguments(session, taken, seed)
    found: dict[tuple[What, str], Units] = {}
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


Suspects = Mapping[tuple[What, str], Units]
"""("inputs", path among the model's arguments) or ("targets", path in the batch) -> the units that look odd."""


def worth(bench: Bench, scan: Scan, odd: Suspects, seed: int) -> Worth:
    """The experiment, with all of `odd` in standard units.

    Raises:
        Skip: it cannot be had: no yardstick, no time, a set-up that cannot be trained or does not take standard units.
    """
    given = scan.batches[:BATCHES]
    session = bench.session()
    if not session.can_step:
        raise Skip("no optimizer given: add 'optimizer' or 'train_step' to the set-up")
    rates = bench.peak_rates() if session.setup.scheduler is not None else ()
    try:
        scale = scale_of(session, given[:4], seed)
        if scale is None:
            raise Skip("no constant guess is known to compare with")
        pace = Pace.on(bench, SECONDS, STEPS)
        standard = _standard(bench, given, odd, seed, rates, pace)
        steps = chunk = int(pace.most)
        if standard < LEARNT and chunk < STEPS:
            raise Skip(f"the {steps} steps that there is time for teach it too little")
        if standard < LEARNT:  # slow in any units: then both get as many steps
            steps *= PATIENCE
            standard = _standard(bench, given, odd, seed, rates, Pace.on(bench, math.inf, steps))
        if standard >= LEARNT:
            again = Pace.on(bench, math.inf, steps)
            standard = min(standard, _standard(bench, given, odd, seed + 1, rates, again))
        if standard < LEARNT:
            return Worth(None, standard, 0, steps)
        raw, raw_steps = _raw(bench, session, scale, given, rates, enough=COPES * standard, steps=chunk, seed=seed)
    except UserCodeError:
        raise Skip("the set-up could not be trained in standard units") from None
    return Worth(raw, standard, raw_steps, steps)


def _raw(
    bench: Bench,
    session: Session,
    scale: Scale,
    given: list[Any],
    rates: Sequence[float],
    *,
    enough: float,
    steps: int,
    seed: int,
) -> tuple[float, int]:
    """(most progress with the units as they are in PATIENCE times the steps, steps taken): done once it is `enough`."""
    pace = Pace.on(bench, math.inf)
    best = -math.inf
    while pace.taken < PATIENCE * steps and best < enough:
        losses = course(session, given, steps=steps, seed=seed + pace.taken, rates=rates, pace=pace)
        best = max(best, scale.share(tail(losses)))
        if not math.isfinite(losses[-1]):
            break
    return best, pace.taken


def _standard(bench: Bench, given: list[Any], odd: Suspects, seed: int, rates: Sequence[float], pace: Pace) -> float:
    """Progress with standard units."""
    session = bench.session()
    for (what, path), unit in odd.items():
        if what == "targets":
            given = [replaced(batch, path, unit.standard) for batch in given]
    inputs = {path: unit for (what, path), unit in odd.items() if what == "inputs"}
    with changed_arguments(session, lambda p, t: inputs[p].standard(t) if p in inputs and t.is_floating_point() else t):
        scale = scale_of(session, given[:4], seed)
        if scale is None:
            raise Skip("in standard units no constant guess is known to compare with")
        return scale.share(tail(course(session, given, steps=int(pace.most), seed=seed, rates=rates, pace=pace)))
