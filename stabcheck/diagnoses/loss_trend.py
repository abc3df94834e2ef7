"""The course of the training loss, where no other check explains it: learnt and lost again, outlier batches.

## What it looks at
The loss of every step of the trial, on the scale between the best constant guess and the loss's own floor, so that its size
and sign do not matter, and against the scatter of the losses themselves (median absolute change from step to step), so that a
random loss (diffusion, adversarial, reinforcement) is not held against itself. Forty steps are few: the usual plateau and
the usual ups and downs are no findings.

## Why it matters
A loss that was learnt and is lost again does not come back by itself, and everything after it is wasted. A few batches with a
loss ten times that of the others steer the whole training: their gradients outweigh hundreds of ordinary ones.

## What to do
Lost again: look at what changes while it trains: a weight of the loss or a penalty that grows at every step, a momentum that
piles up, a rate that rises. Batches far off: print their samples; most often it is a row in another unit, a broken label, a
division by almost zero or a padding value that was not masked.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from stabcheck import stats
from stabcheck.check import Finding, Outcome, Rule, Skip, diagnosis
from stabcheck.reading import GROWN, LATER, TAIL, progress, too_few
from stabcheck.recording import CONSTANT_LEVEL, Recording

LEARNT = 0.3
"""Share of the way from the best constant guess to the floor that counts as learnt, over WINDOW steps."""
WINDOW = 5
"""Steps over which the loss is averaged: fewer show the scatter of batches."""
FAR_OFF = 10.0
"""Times the usual distance of the loss from its floor that a batch must be away to be far off."""
SCATTER = 20.0
"""Times the usual change from step to step, in standard deviations of a normal law, that it must stand out as well."""
FEWEST_FAR_OFF = 2
"""Such batches, in the second half or in the whole trial after its first steps: one may be chance."""
MOST_FAR_OFF = 0.25
"""Share of the steps above which they are no exceptions, but the way this loss is."""
SETTLING = 5
"""First steps that are not looked at: a training may start with a jump."""

LOST = Rule(
    "SC1301",
    "loss-rises-again",
    "fail",
    message="the loss fell from {first:.3g} to {best:.3g} at step {at} and then rose: the last {count} steps are all "
    "above the best constant guess ({constant:.3g}), at {last:.3g} on average",
    fix="look at what changes during training: a loss weight that grows with every step, momentum that builds up, a "
    "rising learning rate; clip the gradient",
    why="A loss that was learnt and is lost again does not come back by itself, and everything after it is wasted.",
)
FAR = Rule(
    "SC1302",
    "outlier-batches",
    "warn",
    message="{count} of {steps} batches have a loss at least {times:.0f} times the usual one (median {median:.3g}; "
    "{losses} at steps {places})",
    fix="print the samples of these batches (step {first_place} counts from 0): a row in another unit, a wrong "
    "target, a value that should be masked; otherwise clip the gradient, or use a loss that grows linearly, such "
    "as Huber's",
    about=("train_loader",),
    why="A few batches with ten times the loss steer the training: their gradients outweigh hundreds of ordinary ones.",
)


@diagnosis(
    title="Course of the loss", about=("optimizer",), rules=(LOST, FAR), reads=(CONSTANT_LEVEL,), beyond=(LATER,)
)
def CHECK(recording: Recording) -> Outcome:  # noqa: N802
    """Judge the losses of the trial."""
    losses = recording.losses
    if not losses:
        raise Skip("train_step returned no loss and none could be seen: return the loss to have its course judged")
    if not all(map(math.isfinite, losses)):
        raise Skip("the loss stopped being a number: gradient-norms and exploding-gradients say where that began")
    if len(losses) < 2 * TAIL:
        raise Skip(f"{too_few(len(losses))} to tell a trend from noise")
    state = progress(recording)
    scatter = _scatter(losses)
    measured: dict[str, Any] = {
        "losses": list(losses),
        "scatter": scatter,
        "progress": state.share,
        "slope_in_scatters": (stats.mean(losses[-2 * TAIL : -TAIL]) - stats.mean(losses[-TAIL:])) / scatter
        if scatter
        else None,
    }
    finding = _lost(recording) or _far_off(recording, scatter)
    summary = (
        finding.message
        if finding
        else f"loss {state.first:.3g} to {state.last:.3g}, ±{scatter:.2g} from batch to batch"
    )
    return Outcome(summary, (finding,) if finding else (), measured)


def _scatter(losses: tuple[float, ...]) -> float:
    """Standard deviation of the noise from batch to batch, from the median change between neighbours: neither a trend nor a
    few spikes move it. For a normal law the median of |a - b| is 0.954 standard deviations."""
    return stats.median([abs(b - a) for a, b in itertools.pairwise(losses)]) / 0.954


def _lost(recording: Recording) -> Finding | None:
    """Learnt, and at the end worse than any constant guess. From a start that was no higher than that, it is a divergence,
    which exploding-gradients tells."""
    losses, levels = recording.losses, recording.yardsticks
    if levels.constant is None or levels.oracle is None or levels.constant <= levels.oracle:
        return None
    means = [stats.mean(losses[i : i + WINDOW]) for i in range(len(losses) - TAIL - WINDOW + 1)]
    at = min(range(len(means)), key=means.__getitem__)
    best, last = means[at], losses[-TAIL:]
    top = max(levels.constant, levels.zero if levels.zero is not None else levels.constant)
    share = (levels.constant - best) / (levels.constant - levels.oracle)
    height = stats.mean(last) - levels.oracle
    is_lost = min(last) > levels.constant and height > GROWN * (top - levels.oracle)
    if share < LEARNT or not is_lost or stats.mean(last) > GROWN * max(top, losses[0]):
        return None
    return LOST.at(
        None, first=losses[0], best=best, at=at, count=TAIL, last=stats.mean(last), constant=levels.constant, share=share
    )  # fmt: skip


def _far_off(recording: Recording, scatter: float) -> Finding | None:
    """Batches whose loss is of another order than that of the others, both on the scale of the loss and of its noise."""
    losses, levels = recording.losses, recording.yardsticks
    later = losses[SETTLING:]
    middle = stats.median(later)
    floor = levels.oracle if levels.oracle is not None else min(0.0, *later)
    usual = middle - floor
    if usual <= 0 or scatter <= 0:
        return None
    far = [
        index + SETTLING
        for index, loss in enumerate(later)
        if loss - floor > FAR_OFF * usual and loss - middle > SCATTER * scatter
    ]
    # A training that falls tenfold in these steps has its start, not its batches, far off.
    if len(far) < FEWEST_FAR_OFF or len(far) > MOST_FAR_OFF * len(later) or max(far) < SETTLING + len(later) // 2:
        return None
    return FAR.at(
        None, count=len(far), steps=len(losses), times=FAR_OFF, median=middle, first_place=far[-1],
        losses=", ".join(f"{losses[i]:.3g}" for i in far[-3:]), places=", ".join(map(str, far[-3:])),
    )  # fmt: skip
