"""Activations, gradients or the loss grow until nothing can be learnt.

## What it looks at
The first NaN or infinity of the trial and where it appeared; the loss of the last ten steps against the best
constant prediction and against the first losses; and the growth of activations with depth at the start. Levels are
relative to the loss of the best constant prediction, so neither the scale of the loss nor large but harmless
gradient norms count, and early spikes that settle within the trial are allowed.

## Why it matters
A loss far above what a constant guess gives does not come back: of the trainings that diverged within 200
steps, 95 % had visibly done so by step 20. An infinite value turns every weight into NaN at the next update.

## What to do
If it starts high: scale the initialisation down with depth (He, or 1/sqrt(2L) on residual branches), or normalise.
If it starts well and blows up: lower the learning rate, warm it up, clip the gradient norm.
"""

from __future__ import annotations

import math
from typing import Any

from stabcheck import stats
from stabcheck.check import Finding, Outcome, Rule, Skip, diagnosis
from stabcheck.reading import GROWN, LATER, TAIL, Progress, called, is_bad_from_nowhere, progress, too_few
from stabcheck.recording import CONSTANT_LEVEL, Recording

DIVERGED = GROWN
"""Times the larger of first loss and constant-prediction loss: after 40 steps 0 alarms on 176 healthy trainings around
the stability edge, 88 % of those that diverged (326 trainings of 500 steps)."""
HOPELESS_START = 1000.0
"""Times the constant-prediction loss at the first step. Up to 1000 times, models recovered (29 of 29); above, 5 of 7 never
did. It counts only if the trial's end is still above DIVERGED."""
GROWTH = 100.0
"""Times from the first to the last layer, or the place up to which, that activations grow to be spoken of."""
FULL_RATE = 0.5
"""Share of the planned peak rate that the trial must have reached to say something about it."""

OVERFLOW = Rule(
    "SC0801",
    "overflow",
    "fail",
    "the {what} of {place} became {value} at step {step} (loss before: {losses})",
    "{remedy}",
)
DIVERGENCE = Rule(
    "SC0802",
    "divergence",
    "fail",
    "the loss went from {first:.3g} to {last:.3g} in {steps} steps; the best constant guess has {constant:.3g}",
    "{remedy}",
    about=("optimizer",),
)
BLOWN_UP = Rule(
    "SC0803",
    "blown-up-start",
    "fail",
    "the first loss is {first:.3g}, {ratio:.0e} times that of the best constant guess ({constant:.3g}), and {steps} steps "
    "did not mend it{growing}",
    "scale the initialisation down (He initialisation; residual branches by 1/sqrt(2 × number of blocks), or start them "
    "at zero), or normalise between the blocks",
)


@diagnosis(
    title="Exploding gradients",
    about=("model",),
    rules=(OVERFLOW, DIVERGENCE, BLOWN_UP),
    reads=(CONSTANT_LEVEL,),
    beyond=(LATER,),
)
def CHECK(recording: Recording) -> Outcome:  # noqa: N802
    """Judge the losses of the trial."""
    state = progress(recording)
    if not recording.losses:
        raise Skip("train_step returned no loss and none could be seen: return the loss to have its course judged")
    constant = state.constant if state.constant is not None else state.first
    level = recording.yardsticks.zero if recording.yardsticks.zero is not None else constant
    norms = [s.grad_norm for s in recording.steps if s.grad_norm is not None and math.isfinite(s.grad_norm)]
    measured = {
        "first_loss": state.first, "last_loss": state.last, "constant_loss": state.constant,
        "largest_gradient_norm": max(norms, default=None), "median_gradient_norm": stats.median(norms) if norms else None,
        "activation_growth": _growth(recording)[0],
    }  # fmt: skip
    reference = max(constant, level)
    # What starts hopeless may well overflow in the end: it is the start that is wrong.
    finding = _blown_up(recording, state, reference) or _overflow(recording)
    # The median too: a few batches far off, as loss-trend tells them, are no divergence.
    low = min(state.last, stats.median(recording.losses[-TAIL:]))
    # The losses of two players rise and fall together with no level of their own.
    is_game = state.constant is None and len(recording.optimizers) > 1
    grew = math.isfinite(state.last) and low > DIVERGED * max(reference, state.first) > 0 < reference
    if finding is None and grew and not is_game:
        finding = DIVERGENCE.at(None, remedy=_remedy(recording), **_facts(recording, state, constant))
    if finding is None and not math.isfinite(state.last):
        raise Skip("the loss stopped being a number without growth before: gradient-norms says where that began")
    if finding is None and len(recording.losses) < TAIL:
        raise Skip(f"{too_few(len(recording.losses))} to tell whether anything grows")
    summary = (
        finding.message
        if finding
        else f"finite and no growth in {len(recording.steps)} steps (loss {state.first:.3g} to {state.last:.3g})"
    )
    outcome = Outcome(summary, (finding,) if finding else (), measured)
    if is_game and finding is None:
        why = f"the step uses {len(recording.optimizers)} optimizers, and its loss has no known level: each may raise the other's"
        outcome = outcome.but_not("whether the loss diverges", why)
    share = recording.warmup_share
    if share is not None and share < FULL_RATE and finding is None:
        outcome = outcome.but_not(
            "stability at the planned peak rate", f"the trial ran in the warm-up, at {share:.0%} of the peak at most"
        )
    return outcome


def _facts(recording: Recording, state: Progress, constant: float) -> dict[str, Any]:
    return {"first": state.first, "last": state.last, "constant": constant, "steps": len(recording.steps)}


def _blown_up(recording: Recording, state: Progress, reference: float) -> Finding | None:
    """A first loss that is a number, and out of all proportion, which the trial did not bring down."""
    if reference <= 0 or not HOPELESS_START * reference < state.first < math.inf or state.last <= DIVERGED * reference:
        return None
    growth, place = _growth(recording)
    constant = state.constant if state.constant is not None else state.first
    at = called(place, recording.kinds)
    growing = f": activations grow {growth:.1e} times from the first to the last layer, past {GROWTH:.0f} times at {at}"
    return BLOWN_UP.at(
        place, at=at, ratio=state.first / reference, growth=growth, growing=growing if growth > GROWTH else "",
        **_facts(recording, state, constant),
    )  # fmt: skip


def _overflow(recording: Recording) -> Finding | None:
    """A non-finite activation, or a non-finite loss after growth. A loss or gradient that is infinite out of nowhere is
    gradient-norms' business, and so is a batch that brought the NaN along."""
    if recording.first_non_finite is None or recording.first_non_finite[0] == "input":
        return None
    what, where, step = recording.first_non_finite
    if what in {"loss", "gradient"} and is_bad_from_nowhere(recording, step):
        return None
    before = [f"{loss:.3g}" for loss in recording.losses[max(0, step - 3) : step]]
    value = "infinite or NaN"
    return OVERFLOW.at(
        where or None, what={"activation": "output", "gradient": "gradient"}.get(what, "value"),
        place=called(where, recording.kinds) if where else "the loss", value=value, step=step, losses=", ".join(before) or "none",
        remedy=_remedy(recording),
    )  # fmt: skip


def _growth(recording: Recording) -> tuple[float, str | None]:
    """Activations at step 0: last over first layer, and the first layer above 100 times the first."""
    rows = [(s.module, s.out_rms[0]) for s in recording.signals if s.out_rms and s.out_rms[0]]
    if len(rows) < 2:
        return 1.0, rows[0][0] if rows else None
    start = rows[0][1] or 1.0
    place = next((module for module, rms in rows if rms and rms > GROWTH * start), rows[-1][0])
    return (rows[-1][1] or 0.0) / start, place


def _remedy(recording: Recording) -> str:
    norms = [s.grad_norm for s in recording.steps[:5] if s.grad_norm is not None and math.isfinite(s.grad_norm)]
    clip = (
        ""
        if recording.clipping.observed or not norms
        else f", clip_grad_norm {stats.median(norms):.2g} (the median at the start)"
    )
    rates = [rate for step in recording.steps for rate in step.lr]
    rate = f" (now {max(rates):.3g})" if rates else ""
    if _growth(recording)[0] > HOPELESS_START:
        return "scale the initialisation down or normalise: activations already grow a thousandfold through the layers"
    return f"lower the learning rate by 10{rate}, warm it up{clip}"
