"""The planned learning rate is too high for this set-up, or so low that the whole run gets nowhere.

## What it looks at
Short trainings of fresh set-ups with your own step, from the same start on the same batches, at your learning rate and at
powers of ten of it; no scheduler or optimizer is replaced. Too high: the loss at your rate ends no lower than the best constant
guess, also after more steps and from other starts, while at a lower rate it falls. Too low: the whole planned run would cover
no more ground than a few dozen steps at the rate that these few dozen make up for, and there the loss does not move, while a
hundredfold moves it. Along the way a line search along the real updates (momentum and preconditioning included) finds the
largest rate at which an update still lowers the loss. A warm-up is gone through, shortened where it is longer than the probe.

## Why it matters
The learning rate is the one setting that can be wrong by a factor of a million without an error message. Too high it destroys
what a pretrained model knew or kills every ReLU; too low it looks like a model that cannot learn.

## What to do
Take the rate that the finding names; from there, a factor of three up or down is worth a try. Momentum β multiplies the rate
by 1/(1-β): from 0.9 to 0.99 means dividing the rate by ten. A summed loss multiplies it by the batch size under SGD.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stabcheck import stats
from stabcheck.check import Finding, NotChecked, Outcome, Rule, Skip, experiment
from stabcheck.reading import LARGE_UPDATE, STALLED, TAIL, largest_update
from stabcheck.recording import CONSTANT_LEVEL, Recording

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.rates.probes import Probes

LONG = 160
"""Steps at the planned rate before it is called too high, or the planned steps if they are fewer: a healthy fine-tuning with a fast
head had got nowhere in 40 steps, where a tenth of its rate did much better, and was as good in 160."""
REPEATS, REPEATS_LOW = 3, 2
"""Starts and batch orders that must agree that a rate is too high, or too low, where nothing is left to chance."""
LEARNT = 0.3
"""Share of the way from the best constant guess to the floor that a lower rate must cover."""
LEFT = 0.2
"""The same share after LONG steps, where no rate covers LEARNT in a few dozen: of language, most cannot be predicted at all."""
BEHIND = 0.25
"""Share of that way which the planned rate may have covered by then."""
WORSE = 0.02
"""Share of the way by which a paired training must be behind to be worse."""
DOWNWARDS = (0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
BAD_START = 10.0
"""Times the levels of a constant and of an all-zero prediction: a first loss above it is a fault of the start, not of the rate."""
SEARCH_AT = (1, 6, 12)
"""Steps with a line search; the last ones see the sharpening that sets in within the first ten."""
SHORT = 13
"""Steps of the first look at the rate, which is to take in the last line search."""
SECONDS = 30.0
"""Most time for all trainings."""
PART = 0.25
"""Share of what is left of the budget that they may take."""

HARMLESS = 1e-3
"""Largest relative update of a weight matrix in the trial that cannot have done harm, unless the loss says that it has: below
the smallest that made a difference in the good trainings."""
SMALL_UPDATE = 0.01
"""Largest relative update of a weight matrix in the trial above which no rate is called too low: 71 % of the trainings whose
rate was too low are below, 4 % of the others."""
NO_GROUND = 0.05
"""Share of the loss that is left which the whole run may gain at most, to be called nowhere."""
GROUND = 0.25
"""The same share that a few dozen steps gain at the better rate."""
TIMES_TOO_LOW = 100.0
"""The better rate over the one that makes the whole run fit into the probe: two decades, since a factor of ten either way is
what good rates of one set-up span."""
MOST_MOMENTUM = 0.99
"""Above it a velocity gathers over more steps than the trial has, so the trial does not show how large it gets."""
GOOD_UPDATE = 0.02
"""Relative update that a good rate makes: the centre of 340 healthy trainings was 0.03 (1 % to 99 %: 5e-4 to 0.33)."""
ALREADY_GOOD = 0.5
"""A model that starts this far on is being polished, with a rate of its own kind."""

TOO_HIGH = Rule(
    "SC1201",
    "learning-rate-too-high",
    "fail",
    message="learning rate {rate:.3g} is too high: from {repeats} starts the loss is {finals} after {long} steps "
    "({level} {constant:.3g}); at {better:.2g}, on the same batches, it is {good:.3g} after {short} "
    "steps{momentum}",
    fix="lower the learning rate to about {better:.2g}{remedy}",
)
TOO_LOW = Rule(
    "SC1202",
    "learning-rate-too-low",
    "fail",
    message="learning rate {rate:.3g} is too low: all {planned} steps of the run get no further than {short} steps at "
    "{whole:.2g}, which take the loss from {first:.4g} to {last:.4g}; at {better:.2g} the same {short} steps "
    "take it to {good:.3g}",
    fix="raise the learning rate to about {better:.2g}",
)


@experiment(
    title="Learning rate",
    about=("optimizer", "train_step"),
    rules=(TOO_HIGH, TOO_LOW),
    needs_trial=True,
    reads=(CONSTANT_LEVEL,),
    cost="dear",
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Judge the planned rate by short trainings at others."""
    from stabcheck.trial.rates.probes import Probes

    recording = bench.recording
    if recording is None or not recording.losses:
        raise Skip("train_step returned no loss and none could be seen: return the loss to have the rate judged")
    if not math.isfinite(recording.losses[0]):
        raise Skip("the first loss is no number, before any rate could matter")
    case = _Case(recording, Probes(bench, recording, min(SECONDS, PART * bench.remaining())))
    margin = case.margin()
    finding = case.too_high(margin) or case.too_low()
    measured = {
        "planned_peak_rate": case.rate,
        "margin": margin,
        "largest_stable_rate": case.rate / margin if margin else None,
        "stable_multiples_of_the_update": case.multiples,
        "curves": case.probes.curves(),
    }
    if finding is not None:
        summary = finding.message
    elif margin is not None:
        summary = f"learning rate {case.rate:.3g}; {case.room(margin)}"
    else:
        summary = f"nothing speaks against {case.rate:.3g}"
    return Outcome(summary, (finding,) if finding else (), measured, tuple(case.not_checked))


class _Case:
    """One set-up whose rate is judged, and what was learnt on the way."""

    def __init__(self, recording: Recording, probes: Probes) -> None:
        self.recording, self.probes = recording, probes
        self.rate = max(probes.plan.peaks, default=max((r for s in recording.steps for r in s.lr), default=math.nan))
        self.multiples: list[float] = []
        self.not_checked: list[NotChecked] = []

    def margin(self) -> float | None:
        """The planned peak over the largest stable rate, by line searches in a few steps; None if they could not be made."""
        probe = self.probes.probe(1.0, SHORT, search_at=SEARCH_AT)
        if probe.why_not:
            raise Skip(f"the rate could not be changed: {probe.why_not}")
        self.multiples = [edge.multiple for edge in probe.edges]
        if not probe.edges:
            self.not_checked.append(
                NotChecked("the largest stable rate", "no update whose loss could be computed again")
            )
            return None
        return 1 / stats.median([edge.bears for edge in probe.edges])

    def room(self, margin: float) -> str:
        """What the line searches say of a rate that is not at fault."""
        if margin < 1:
            return f"up to {1 / margin:.2g} times as much would still lower the loss"
        losses = self.probes.losses(1.0)
        course = f"{self.probes.bounds.first:.3g} to {self.probes.end(losses):.3g} in {len(losses)} steps"
        first = f"though the first updates alone would bear no more than {1 / margin:.2g} of it"
        if self.probes.is_bad(losses):
            return f"the loss does not fall at it ({course}), but more steps, other starts and lower rates do not blame the rate"
        return f"training makes way at it (loss {course}), {first}"

    def too_high(self, margin: float | None) -> Finding | None:
        """Training at the planned rate gets nowhere or is lost, and at a lower one it is not."""
        probes, recording = self.probes, self.recording
        base, momentum, update = probes.losses(1.0), self._momentum(), largest_update(recording)
        large = (update or 0.0) > LARGE_UPDATE or (margin or 0.0) > 1 or momentum > MOST_MOMENTUM
        if update is not None and update < HARMLESS and not probes.bounds.is_lost(probes.end(base)):
            return None
        if probes.scale.share(probes.bounds.first) < -BAD_START or not (probes.is_bad(base) or large):
            return None
        if not probes.affords(2 * probes.steps):
            self.not_checked.append(NotChecked("whether a lower rate does better", "it does not fit the budget"))
            return None
        lost = probes.is_bad(base) and probes.bounds.is_lost(probes.end(base))
        better, patient = self._lower(base, lost=lost), False
        if better is None and not lost and probes.is_bad(base):
            better, patient = self._promising(base), True
        # The shortened warm-up is the harder one: a tenth of the peak must have been too much as well.
        tenth = probes.plan.ramp and probes.is_good(probes.losses(DOWNWARDS[0]), LEARNT, beside_lost=lost)
        if better is None or tenth:
            return None
        finals, steps = [], 0
        for repeat in range(REPEATS):
            long = self._lasting(repeat, lost=lost)
            if long is None or not (
                self._left_behind(long, better, repeat)
                if patient
                else not repeat or probes.is_good(probes.losses(better, repeat), LEARNT, beside_lost=lost)
            ):
                return None
            last, steps = probes.end(long), max(steps, len(long))
            finals.append(f"{last:.3g}" if math.isfinite(last) else "infinite")
        good = probes.probe(better, steps).losses if patient else probes.losses(better)
        times = 1 / (1 - momentum) if momentum < 1 else math.inf
        return TOO_HIGH.at(
            None, rate=self.rate, better=self.rate * better, good=probes.end(good), short=len(good),
            long=steps, finals=", ".join(finals), constant=probes.scale.constant,
            level="best constant guess" if probes.bounds.is_known else "at the start", repeats=REPEATS,
            momentum=f"; momentum {momentum:g} makes it act like {self.rate * times:.3g}" if momentum > 0.95 else "",
            remedy=f", or the momentum to 0.9 (a rate acts {times:.3g} times as long)" if momentum > 0.95 else "",
        )  # fmt: skip

    def _lower(self, base: tuple[float, ...], *, lost: bool) -> float | None:
        """The factor below 1 at which training gets furthest, before it gets slower again; None if it gets nowhere."""
        probes = self.probes
        best, reached = None, probes.scale.share(probes.end(base))
        for factor in DOWNWARDS if lost else DOWNWARDS[:3]:
            if not probes.affords(probes.steps):
                break
            losses = probes.losses(factor)
            share = probes.scale.share(probes.end(losses))
            if share < reached - WORSE and (best or not lost):
                break
            if probes.is_good(losses, LEARNT, beside_lost=lost):
                best = factor
            reached = max(share, reached)
        return best

    def _promising(self, base: tuple[float, ...]) -> float | None:
        """The factor below 1 at which training gets furthest from a constant guess, if it leaves it at all."""
        probes = self.probes
        best, reached = None, max(STALLED, probes.scale.share(probes.end(base)) + WORSE)
        for factor in DOWNWARDS[:3]:
            share = probes.scale.share(probes.end(probes.losses(factor))) if probes.affords(probes.steps) else -math.inf
            if share < reached:
                break
            best, reached = factor, share
        return best

    def _left_behind(self, long: tuple[float, ...], better: float, repeat: int) -> bool:
        """Whether as many steps at the lower rate go far beyond a constant guess, and those at the planned one do not."""
        probes, tail = self.probes, max(TAIL, len(long) // 4)
        if not probes.affords(len(long)):
            return False
        made = probes.probe(better, len(long), repeat)
        reached = probes.scale.share(probes.end(made.losses, tail))
        own = probes.scale.share(probes.end(long, tail))
        return len(made.losses) == len(long) and reached >= LEFT and own < BEHIND * reached

    def _lasting(self, repeat: int, *, lost: bool) -> tuple[float, ...] | None:
        """The losses at the planned rate from one start, if it does not get anywhere in a longer run either."""
        probes, planned = self.probes, self.recording.planned_steps
        if lost:
            losses = probes.losses(1.0, repeat)
            return losses if probes.bounds.is_lost(probes.end(losses)) else None
        steps = max(probes.steps, min(LONG, planned or LONG) * self.recording.accumulate_steps)
        if not probes.affords(steps):
            self.not_checked.append(
                NotChecked("whether more steps at this rate get somewhere", "it does not fit the budget")
            )
            return None
        done = probes.probe(1.0, steps, repeat)
        return done.losses if not done.why_not and probes.is_bad(done.losses, steps // 4) else None

    def _momentum(self) -> float:
        """The largest momentum of a plain one: those of adaptive optimizers are normalised by their own."""
        return max((float(g.get("momentum") or 0.0) for o in self.recording.optimizers for g in o.groups), default=0.0)

    def too_low(self) -> Finding | None:
        """The whole run gets nowhere, and at a rate a hundred times higher it would."""
        probes, recording = self.probes, self.recording
        update, planned = largest_update(recording), recording.planned_steps
        if update is None or not 0 < update < SMALL_UPDATE * (recording.warmup_share or 1.0):
            return None
        if planned is None:
            self.not_checked.append(
                NotChecked("whether the rate is too low for the run", "add 'max_steps' or 'max_epochs'")
            )
            return None
        whole = planned * recording.accumulate_steps / probes.steps
        update /= recording.warmup_share or 1.0
        better = 10.0 ** round(math.log10(GOOD_UPDATE / update))
        base = probes.end(probes.losses(1.0))
        scale = probes.scale
        floor = scale.floor
        if whole < 1 or scale.share(base) > ALREADY_GOOD or not base > floor:
            return None

        def gain(factor: float, repeat: int) -> float:
            untrained = probes.end(probes.losses(1.0, repeat))
            return (untrained - probes.end(probes.losses(factor, repeat))) / (untrained - floor)

        if not probes.affords(6 * probes.steps):
            self.not_checked.append(NotChecked("whether the rate is too low for the run", "it does not fit the budget"))
            return None
        rungs = [f for f in (better, better * 10, better * 100) if f >= TIMES_TOO_LOW * whole]
        repeats = range(REPEATS_LOW)
        found = next((f for f in rungs if all(gain(f, repeat) >= GROUND for repeat in repeats)), None)
        if found is None or any(gain(whole, repeat) > NO_GROUND for repeat in repeats):
            return None
        return TOO_LOW.at(
            None, rate=self.rate, planned=planned, short=probes.steps, whole=self.rate * whole, better=self.rate * found,
            first=base, last=probes.end(probes.losses(whole)), good=probes.end(probes.losses(found)),         )  # fmt: skip
