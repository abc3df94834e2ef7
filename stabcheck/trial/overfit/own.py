"""Fitting one batch with the user's own step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stabcheck.check import Source
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import before_steps
from stabcheck.trial.modes import held_by
from stabcheck.trial.overfit.fits import Fit, fit_with_own_step, moved, settled, weights
from stabcheck.trial.overfit.levels import SAMPLES, SMALLEST, OneBatch
from stabcheck.userland import UserCodeError

STEPS, FEWEST_STEPS = 100, 10


@dataclass(frozen=True)
class OwnFit:
    """One attempt with the user's own step, on the scale of the loss: 1 is the best constant guess, 0 the floor."""

    fit: Fit
    constant: float
    floor: float
    moved: bool

    @property
    def rate(self) -> float:
        """Largest learning rate of the parameter groups."""
        return self.fit.rate

    @property
    def losses(self) -> tuple[float, ...]:
        """Loss before each step."""
        return self.fit.losses

    @property
    def final(self) -> float:
        """Mean of the last losses."""
        return self.fit.final

    @property
    def gap(self) -> float:
        """From the floor to the best constant guess."""
        return max(self.constant - self.floor, SMALLEST)

    def fits(self, limit: float) -> bool:
        """Whether less than `limit` of the gap is left."""
        return (self.final - self.floor) / self.gap <= limit

    @property
    def gain(self) -> float:
        """Share of the gap that was covered."""
        return (self.losses[0] - self.final) / self.gap

    @property
    def went_up(self) -> bool:
        """Whether the loss ended non-finite, or above its start by a tenth of the gap."""
        return not math.isfinite(self.final) or self.gain < -0.1

    @property
    def is_falling(self) -> bool:
        """Whether the second half ended below its start and no loss rose above the first by a tenth of the gap."""
        half = self.losses[len(self.losses) // 2 :]
        steady = max(self.losses) <= self.losses[0] + 0.1 * self.gap if all(map(math.isfinite, self.losses)) else False
        return steady and half[-1] < half[0]

    def steps_to(self, limit: float) -> float:
        """Steps from the start until less than `limit` of the gap is left, at the pace of the second half; infinite if
        the loss does not fall."""
        half = self.losses[len(self.losses) // 2 :]
        pace = (half[0] - half[-1]) / max(len(half) - 1, 1)
        missing = max(self.final - self.floor - limit * self.gap, 0.0)
        return len(self.losses) + missing / pace if pace > 0 else math.inf


class OwnStep:
    """The user's own step on one batch, from the same start at each attempt.

    `chosen` is the batch and its levels; None if the loss is known only inside the step.
    """

    def __init__(self, bench: Bench, chosen: OneBatch | None) -> None:
        self.bench, self.chosen = bench, chosen
        self.session = bench.session()
        self.planned = self.session.planned_steps
        self.source: Source | None = bench.source(self.session.setup.train_step)
        self.curves: dict[str, list[float]] = {}
        self._stepped: set[int] = set()
        self.why_not = ""
        if not self.session.can_step:
            self.why_not = "no optimizer given: add 'optimizer' or 'train_step' to the set-up"
            return
        if chosen is not None:
            self._whole, self._batch = chosen.whole, chosen.batch
        else:
            self._whole = batches.clone(self.session.first_batch())
            self._batch = batches.clone(batches.cut(self._whole, SAMPLES))
        self._snapshot = self.session.snapshot()
        self._peaks = bench.peak_rates() or self.session.learning_rates()

    def fit(self, factor: float, enough: float) -> OwnFit | None:
        """At `factor` times the planned peak rates, until less than `enough` is left; None if there is no step, or no
        loss to judge it by."""
        if self.why_not:
            return None
        self.bench.tell(0.7, f"fitting one batch with your own step at {factor:g} times your rate")
        rates = [peak * factor for peak in self._peaks]
        try:
            fit, changed = self._attempt(rates, enough)
        except UserCodeError:
            if batches.size(self._whole) == batches.size(self._batch):
                raise
            # A step may rely on the loader's batch size.
            self._batch = self._whole
            self.session = self.bench.session()
            self._snapshot = self.session.snapshot()
            fit, changed = self._attempt(rates, enough)
        if not fit.losses or math.isnan(fit.losses[0]):
            self.why_not = "train_step returns no loss"
            return None
        self.curves["your optimizer" if factor == 1 else f"your optimizer at {factor:g} × your rate"] = list(fit.losses)
        constant, floor = (self.chosen.height, self.chosen.floor) if self.chosen else (fit.losses[0], 0.0)
        return OwnFit(fit, constant, floor, changed)

    def _attempt(self, rates: Sequence[float], enough: float) -> tuple[Fit, bool]:
        session, chosen = self.session, self.chosen
        self.restart()
        before = weights(session.model)
        accumulate = session.setup.accumulate_steps

        def stop(losses: list[float]) -> bool:
            target = chosen.level(enough) if chosen is not None else losses[0] * enough
            return len(losses) >= FEWEST_STEPS * accumulate and settled(losses) <= target

        steps = min(STEPS * accumulate, 4 * STEPS)
        with before_steps(session.model.parameters(), lambda optimizer: self._stepped.add(id(optimizer))):
            fit = fit_with_own_step(
                session,
                self._batch,
                rates=rates,
                steps=steps,
                seed=self.bench.seed,
                stop=stop,
                deadline=self.bench.deadline,
            )
        return fit, moved(before, session.model)

    @property
    def optimizers(self) -> int:
        """How many optimizers of this model the step steps."""
        return len(self._stepped)

    @property
    def batch(self) -> Any:
        """The batch that was fitted."""
        return self._batch

    @property
    def peaks(self) -> tuple[float, ...]:
        """The planned peak rate of each parameter group."""
        return tuple(self._peaks)

    def restart(self) -> None:
        """Back to the start of each attempt."""
        self.session.restore(self._snapshot)
        self.session.model.train()

    def why_unmoved(self) -> str:
        """Why no weight changes, as far as the optimizer tells."""
        held = self._held()
        if held is None:
            return "train_step never steps an optimizer of this model"
        count = sum(id(p) in held for p in self.session.model.parameters())
        if not count:
            return "the optimizer holds none of the model's parameters"
        if not any(self._peaks):
            return "every learning rate is zero"
        return f"the optimizer holds {count} of its parameters, but they stay as they are"

    def missing_parameters(self) -> str:
        """A parenthesis with a trainable parameter that the set-up's optimizer does not hold; empty if there is none."""
        held = self._held()
        if held is None:
            return ""
        named = self.session.model.named_parameters()
        missing = [name for name, p in named if p.requires_grad and id(p) not in held]
        return f" (for example {missing[0]})" if missing else ""

    def _held(self) -> set[int] | None:
        optimizer = self.session.setup.optimizer
        return None if optimizer is None else held_by(optimizer)
