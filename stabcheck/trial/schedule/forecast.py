"""The rates of a planned run as plain numbers: where they come from, what they are at each step, what to plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stabcheck.check import NotChecked
from stabcheck.trial.schedule.cadence import Observed
from stabcheck.trial.schedule.fault import Fault
from stabcheck.trial.schedule.rate_shape import Rates, distinct, rounded, thin
from stabcheck.trial.schedule.run_length import Plan, Reading
from stabcheck.trial.schedule.simulation import Curve
from stabcheck.trial.schedule.sizes import describe
from stabcheck.trial.session import Session

MOST_GROUPS = 16
"""Parameter groups that get a curve of their own for the plot; of more, one of each shape."""
TRIAL_STEPS = 40
"""Steps of the trial, which other checks look at."""


@dataclass
class Forecast:
    """The rates that the run would train with. `curve` is by calls of the scheduler, or by steps where there is none."""

    session: Session
    plan: Plan
    reading: Reading
    curve: Curve
    observed: Observed | None = None
    fault: Fault | None = None
    notes: list[NotChecked] = field(default_factory=list)
    by_hand: bool = False
    """The rates come from real training steps: something else than the set-up's scheduler changes them."""
    pace_assumed: bool = False
    """How often the scheduler is called is neither declared nor seen."""
    waits_for_metric: bool = False
    begun_at: int = 0
    """How often the scheduler of a fresh set-up, whose optimizer has not made a step, has been stepped already."""
    ends_with_run: bool = False
    """The schedule is over, by its own measure, where the run is."""

    @property
    def used(self) -> Rates:
        """The rates (calls x groups) that steps are made with: the last call of the scheduler comes after them all."""
        calls = self.reading.calls
        return self.curve.rates if calls is None else self.curve.used(calls)

    @property
    def unit(self) -> str:
        """What `steps` counts: "step", or "epoch" where the length of an epoch is not known."""
        return "epoch" if self.reading.unit == "epoch" and not self.reading.steps_per_call else "step"

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The optimizer step (or epoch) at which each row of `used` comes into force."""
        stretch = self.curve.stride * (self.reading.steps_per_call or 1.0)
        steps: npt.NDArray[np.int64] = np.rint(np.arange(len(self.used)) * stretch).astype(np.int64)
        return steps

    @property
    def name(self) -> str:
        """The scheduler with its lengths."""
        return describe(self.session.setup.scheduler) if self.session.setup.scheduler is not None else "the rate"

    @property
    def cadence(self) -> str:
        """How often the scheduler is called."""
        known = {"epoch": "once per epoch", "optimizer step": "once per optimizer step", "batch": "once per batch"}
        return known.get(self.reading.unit, f"{self.reading.per_step:.3g} times per optimizer step")

    @property
    def caller(self) -> str:
        """Who calls it, as the subject of a sentence."""
        if self.observed is not None and self.observed.calls and self.reading.unit != "epoch":
            return f"train_step calls it {self.cadence}"
        declared = self.session.setup.scheduler_interval
        return f"scheduler_interval={declared!r} means {self.cadence}" if declared else f"it is called {self.cadence}"

    def when(self, call: int) -> str:
        """The place of a call in the run."""
        if self.reading.unit == "epoch":
            return f"after epoch {call} of {self.reading.calls}"
        return f"at step {round(call * (self.reading.steps_per_call or 1))} of {self.plan.steps}"

    def summary(self) -> str:
        """First, highest and last rate in one line."""
        rates = self.used
        highest = rates[:, int(rates.max(axis=0).argmax())]
        at = self.steps[int(highest.argmax())]
        first, peak, last = float(highest[0]), float(highest.max()), float(highest[-1])
        groups = f" ({rates.shape[1]} groups)" if rates.shape[1] > 1 else ""
        if first == peak == last == float(highest.min()):
            return f"{self.name}: constant at {peak:.3g}{groups}"
        middle = f", peak {peak:.3g} at {self.unit} {at}" if peak > first else ""
        end = (
            "at the end"
            if self.reading.calls is not None and self.curve.complete
            else f"at {self.unit} {self.steps[-1]}"
        )
        return f"{self.name}: {first:.3g}{middle}, {last:.3g} {end}{groups}, {self.cadence}"

    def measurements(self) -> dict[str, Any]:
        """The curve for a plot, thinned with its extremes and jumps kept, and the numbers that describe it."""
        rates, steps = self.used, self.steps
        rows = thin(rates)
        many = rates.shape[1] > MOST_GROUPS
        groups = distinct(rates, MOST_GROUPS) if many else list(range(rates.shape[1]))
        peaks = rates.max(axis=0)
        shown = [(int(steps[row]), row) for row in rows]
        if 2 * len(rows) <= 200 and (self.reading.steps_per_call or 1.0) >= 2:
            # A rate that holds for an epoch is a stair, not a slope.
            ends = [
                *(int(steps[row]) - 1 for row in rows[1:]),
                self.plan.steps - 1 if self.plan.steps else int(steps[-1]),
            ]
            shown = [pair for pair, end in zip(shown, ends, strict=True) for pair in (pair, (end, pair[1]))]
        early = rates[: max(1, int(np.searchsorted(steps, TRIAL_STEPS)))]
        top = float(peaks.max())
        return {
            "scheduler": self.name if self.session.setup.scheduler is not None else None,
            "planned_steps": self.plan.steps,
            "unit": self.unit,
            "calls": self.reading.calls,
            "cadence": self.cadence,
            "steps_per_epoch": self.plan.steps_per_epoch,
            "steps": [step for step, _ in shown],
            "groups": groups,
            "rates": [rounded(rates[[row for _, row in shown], group]) for group in groups],
            "peak": top,
            "peaks": rounded(peaks),
            "peak_steps": steps[rates.argmax(axis=0)].tolist(),
            "first": rounded(rates[0]),
            "final": rounded(rates[-1]),
            "trial_rate_share": float(early.max()) / top if top > 0 else None,
        }
