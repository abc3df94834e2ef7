"""Sigmoids, tanhs and attention that start saturated and pass no gradient, or attention over the wrong axis.

## What it looks at
One forward at the start: for every call of sigmoid, tanh and the like the share of units on the flat part (slope below a
hundredth of the steepest), for softmax, attention and the logits of a cross-entropy the share of rows that give everything to
one entry. If nearly all of a layer is flat, or the first loss is far above any guess, and the trial learns nothing, the trial
is run again with the input of just these functions scaled to size 1: the finding is raised if that learns. Where something is
learnt, and units are flat on either side, it is raised if that leaves at most half as much of the way to the lowest loss.
Confident outputs, closed gates and sharp attention that train are left alone. In attention written by hand, whether the weights
sum to one over what they mix, and whether a mask hides every key.

## Why it matters
On the flat part the gradient is a hundredth or less of what it could be, times that again for each such layer. Attention
normalised over batch or heads mixes samples that have nothing to do with each other, and trains all the same.

## What to do
Smaller weights or inputs in front of the function: standardise the inputs, Xavier initialisation, a normalisation layer. For
attention: divide the logits by the root of the head's width, and softmax over the keys, dim=-1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Severity, Skip, experiment
from stabcheck.reading import called, progress, starts_far_off
from stabcheck.userland import UserCodeError

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.saturation.gauge import Gauge, GaugeWatch

NEARLY_ALL = 0.9
"""Share of a layer's units (or rows) that are flat. It only chooses what the second trial softens; its result decides."""

SATURATED = Rule(
    "SC1101",
    "saturated-at-initialization",
    "fail",
    message="{share:.0%} of the {kind} in {at} is saturated at the start (its input has scale {size:.3g}){others}, and "
    "nothing is learnt in {steps} steps (loss {first:.3g} to {last:.3g}, best constant guess {constant:.3g}); "
    "with that input scaled to 1, the same steps reach {better:.3g}",
    fix="{remedy}",
    why="On the flat part the gradient is a hundredth or less of what it could be, times that again for each such layer.",
)
WRONG_AXIS = Rule(
    "SC1102",
    "softmax-over-wrong-axis",
    "fail",
    message="the attention weights in {at} are normalised over axis {axis} of {axes} ({what}) and not over the keys: "
    "summed over the keys they give {lowest:.3g} to {highest:.3g}, not 1",
    fix="apply softmax over the last axis of the logits (queries x keys): dim=-1",
    why="Attention normalised over batch or heads mixes samples that have nothing to do with each other, and trains all the same.",
)
ALL_MASKED = Rule(
    "SC1103",
    "every-key-masked",
    "fail",
    message="the mask hides every key from every query of the attention in {at}, so it averages all values alike or "
    "gives NaN",
    fix="check what True means in the mask (hidden in PyTorch's key_padding_mask, shown in "
    "scaled_dot_product_attention), and whether it is inverted",
    why="A softmax over nothing gives NaN or an average over what should be hidden.",
)
HELD_BACK = Rule(
    "SC1104",
    "held-back-by-saturation",
    "fail",
    message="{share:.0%} of the {kind} in {at} is saturated at the start (its input has scale {size:.3g}){others}: after {steps} "
    "steps the loss is {last:.3g}, and with that input scaled to 1 it is {better:.3g} after the same steps",
    fix="{remedy}",
    why="On the flat part units are switches, and the layers before them hardly move: what is learnt is learnt around them.",
)


ONE_PIECE = NotChecked(
    "gates inside nn.LSTM, nn.GRU and nn.RNN, and attention inside nn.MultiheadAttention", "they run as one piece"
)


@experiment(
    title="Activation saturation",
    about=("model",),
    rules=(SATURATED, WRONG_AXIS, ALL_MASKED, HELD_BACK),
    needs_trial=True,
    beyond=(ONE_PIECE,),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Read one forward; train again only where something is saturated and nothing is learnt."""
    from stabcheck.trial.call_watch import watch_one
    from stabcheck.trial.saturation.gauge import LOSSES, SQUASHING, GaugeWatch

    recording = bench.recording
    assert recording is not None
    try:
        watch = watch_one(bench, lambda model, batch: GaugeWatch(model))
    except UserCodeError as error:
        raise Skip(f"no forward of the model can be watched: {error.message}") from None
    not_checked: list[NotChecked] = []
    gauges, state = list(watch.gauges.values()), progress(recording)
    if not gauges:
        raise Skip("the model calls no sigmoid, tanh, softmax or attention that could be followed")
    findings, is_sure = _structural(bench, watch), starts_far_off(recording)
    # A first loss far above any guess is one of logits that are wrong and sure of it.
    flat = [g for g in gauges if g.size > 1 and (g.saturated >= NEARLY_ALL or (is_sure and g.kind in LOSSES))]
    if not findings and flat and state.share is None:
        not_checked.append(
            NotChecked("whether saturation holds the training", "what nothing learnt means for this loss is not known")
        )
    elif not findings and flat and state.is_low:
        findings = _saturated(bench, flat)
    elif not findings and (scaled := [g for g in flat if g.is_of_both_signs and g.kind in SQUASHING]):
        findings = _saturated(bench, scaled, is_stuck=False)
    worst = max(gauges, key=lambda g: g.saturated)
    measured: dict[str, Any] = {
        "functions": [
            {
                "module": g.module,
                "kind": g.kind,
                "saturated": g.saturated,
                "input_size": g.size,
                "wholly_masked": g.masked,
            }
            for g in gauges
        ]
    }
    harmless = ", and the loss falls: harmless so far" if worst.saturated >= NEARLY_ALL and not state.stalled else ""
    summary = (
        findings[0].message
        if findings
        else f"at most {worst.saturated:.0%} saturated ({worst.kind} in {called(worst.module, bench.kinds)}){harmless}"
    )
    return Outcome(summary, findings, measured, tuple(not_checked))


def _structural(bench: Bench, watch: GaugeWatch) -> tuple[Finding, ...]:
    """What is wrong however it trains."""
    assert bench.recording is not None
    for gauge in watch.gauges.values():
        if gauge.masked == 1:
            return (
                ALL_MASKED.at(
                    gauge.module or None,
                    at=called(gauge.module, bench.kinds),
                ),
            )
    for wrong in sorted(watch.wrong, key=lambda w: not w.is_foreign):
        severity: Severity = "fail" if wrong.is_foreign else "warn"
        what = "neither the queries nor the keys" if wrong.is_foreign else "the queries"
        return (
            WRONG_AXIS.at(
                wrong.module or None, severity=severity, at=called(wrong.module, bench.kinds),
                axis=wrong.axis, axes=wrong.axes, what=what, lowest=wrong.lowest, highest=wrong.highest,
            ),
        )  # fmt: skip
    return ()


def _saturated(bench: Bench, flat: list[Gauge], *, is_stuck: bool = True) -> tuple[Finding, ...]:
    """The trial again, with the inputs of these functions scaled to size 1."""
    from stabcheck.trial.counterfactual import ahead, compare
    from stabcheck.trial.saturation.gauge import LOSSES, Softened

    assert bench.recording is not None
    divisors = {(g.module, g.kind): g.size for g in flat}
    found = (compare if is_stuck else ahead)(bench, lambda session: Softened(session.model, divisors).inserted())
    if found is None:
        return ()
    first, more = flat[0], len(flat) - 1
    remedy = (
        "divide the logits by the root of the head's width, or initialise the query and key projections smaller"
        if first.kind in {"attention", "softmax"}
        else "make these logits smaller: look at the temperature or logit scale (and at which side a clamp keeps), or initialise "
        "the last layer smaller"
        if first.kind in LOSSES
        else "standardise what goes in, initialise the layer before it by Xavier, or put a normalisation between them"
    )
    return (
        (SATURATED if is_stuck else HELD_BACK).at(
            first.module or None, severity=found.severity, at=called(first.module, bench.kinds),
            kind=first.kind, share=first.saturated, size=first.size, remedy=remedy, modules=[g.module for g in flat],
            others=f" (and so in {more} more)" if more else "", **found.facts,
        ),
    )  # fmt: skip
