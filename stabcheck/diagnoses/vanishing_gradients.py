"""The training signal dies out between the loss and the first layers.

## What it looks at
The gradient with respect to the *output* of every layer, at ten points of the trial. Its neck is the
narrowest place: how much stronger the gradient is behind it than anywhere before it. Beside it, the share
of the last layer's output that depends on the input at all. Both are free of the scale of loss, weights and
optimizer, so Adam cannot hide a vanished gradient, and a zero-initialised branch, a frozen layer or a bias in
front of a normalisation does not raise an alarm. They count at the end of the trial, and only if the model has
learnt nothing about its inputs by then: many networks start starved and recover within a few dozen steps.
For recurrent modules, and for layers that a loop calls again and again: how far back in time the gradient reaches.

## Why it matters
Layers without a gradient stay as they were initialised. The loss falls to what the best constant guess gives
and stays there, however long the run.

## What to do
Give the gradient a way: residual connections or normalisation (BatchNorm helps more than LayerNorm), ReLU or GELU
instead of sigmoid or tanh, He initialisation for ReLU, Xavier for tanh, fewer layers; gated cells for long
sequences. If the signal was there at the start and is lost at the end, the updates killed it: lower the learning
rate, warm it up, or clip.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from stabcheck import profiles, stats
from stabcheck.check import Finding, Outcome, Rule, Severity, Skip, diagnosis
from stabcheck.diagnoses import _vanishing_gradients_memory as memory
from stabcheck.reading import (
    GROWN,
    LARGE_UPDATE,
    TAIL,
    WARN_NECK,
    Progress,
    called,
    largest_update,
    neck,
    progress,
    variance_share,
)
from stabcheck.recording import CONSTANT_LEVEL, Recording

FAIL_NECK = -6.0
"""ln of the ratio across the neck. With the other conditions the FAIL rule raised 5 alarms on 516 healthy trainings and
caught 88 % of 207 that could not train, on set-ups that were not used to choose it."""
FAIL_SHARE, FAIL_SHARE_TOKENS, WARN_SHARE = 1e-4, 1e-5, 1e-3
"""Share of the output that depends on the input. Language models sit at 3e-5 on the unigram plateau, hence the second."""
HEALTHY_SHARE_AT_START = 1e-3
"""Share of the output that depends on the input before any step, from which what is lost by the end was lost by training."""
AT_ONCE = 0.7
"""Share of the whole loss of variation (in ln) from which one layer is held responsible for it."""
STARVED = Rule(
    "SC0701",
    "starved-layers",
    "fail",
    "the gradient shrinks {ratio} on its way from {after} to {at} and everything before it, and nothing was "
    "learnt in {steps} steps (loss {last:.3g}, best constant guess {constant:.3g})",
    "{remedy}",
)
BLIND = Rule(
    "SC0702",
    "input-independent-output",
    "fail",
    "the output of {at} is the same for every input (only {share:.1e} of it varies), and nothing was learnt "
    "in {steps} steps (loss {last:.3g}, best constant guess {constant:.3g})",
    "{remedy}",
)
KILLED = Rule(
    "SC0703",
    "signal-lost-in-training",
    "fail",
    "the gradient reached every layer at the start, but after {steps} steps {what}: the updates destroyed it (largest "
    "update {update:.2g} of a weight's norm)",
    "lower the learning rate by 10, or reach it by a warm-up; clip_grad_norm {clip} would cap the largest gradients",
)
FIRST = "the input"
"""What stands before the first layer."""
TABLES = {"Embedding", "EmbeddingBag"}
"""Layers that look up what an index chooses."""
LOST = Rule(
    "SC0705",
    "input-lost-in-one-layer",
    "fail",
    "what {before} puts out still differs from input to input, what {at} makes of it does not (only {share:.1e} of the "
    "output varies), and nothing was learnt in {steps} steps (loss {last:.3g}, best constant guess {constant:.3g})",
    "look at what happens between {before} and {at}: a mask that hides everything or is inverted, an index or slice that "
    "always takes the same, saturation, a multiplication by zero",
)


@diagnosis(
    title="Vanishing gradients",
    about=("model",),
    rules=(STARVED, BLIND, KILLED, memory.FORGETFUL, LOST, memory.FADING),
    reads=(CONSTANT_LEVEL,),
)
def CHECK(recording: Recording) -> Outcome:  # noqa: N802
    """Judge the neck and the variance share at the end of the trial."""
    if not recording.sampled or not recording.signals:
        raise Skip("no layer with parameters ran in the trial, so no gradient could be followed")
    state, end = progress(recording), len(recording.sampled) - 1
    narrow, share = neck(recording, end), variance_share(recording, end)
    if narrow is None and share is None:
        raise Skip("fewer than two layers have a gradient: there is no way along which it could vanish")
    measured = {
        "neck": narrow.depth if narrow else None,
        "neck_between": [narrow.before, narrow.after] if narrow else None,
        "varying_share_of_output": share,
        "progress": state.share,
        "gradient_by_layer": [[s.module, s.grad_norm[end]] for s in recording.signals],
        "activations": profiles.activations(recording),
        "memory_steps": {r.module: memory.reach(r.at_end) for r in recording.recurrences},
    }
    finding = _judge(recording, state, end)
    forgetful = memory.judge(recording, state) if finding is None else ()
    if finding is not None:
        summary = f"no signal reaches {called(finding.location, recording.kinds)}"
    elif narrow is None:
        summary = "the output depends on the input; too few layers to follow a gradient"
    else:
        summary = f"the gradient reaches the first layer (narrowest place: ×{_ratio(narrow.depth)})"
    return Outcome(summary, tuple(f for f in (finding, *forgetful) if f), measured)


def _judge(recording: Recording, state: Progress, end: int) -> Finding | None:
    narrow, share = neck(recording, end), variance_share(recording, end)
    depth, varies = (narrow.depth if narrow else 0.0), (1.0 if share is None or math.isnan(share) else share)
    lowest = FAIL_SHARE_TOKENS if recording.tokens else FAIL_SHARE
    is_starved, is_blind = depth < FAIL_NECK, varies < lowest
    nearly = depth < WARN_NECK or (varies < WARN_SHARE and not recording.tokens)
    if state.constant is None:  # the first loss stands in for it, and the losses of adversaries do not fall
        is_starved, is_blind, nearly = depth < 2 * FAIL_NECK, is_blind and not recording.tokens, False
    if not state.stalled or not (is_starved or is_blind or nearly):
        return None
    severity: Severity = "fail" if is_starved or is_blind else "warn"
    facts: dict[str, Any] = {
        "steps": len(recording.steps), "first": state.first, "last": state.last, "progress": state.share,
        "constant": state.constant if state.constant is not None else state.first, "neck": depth, "share": varies,
    }  # fmt: skip
    last = recording.signals[-1].module
    update = largest_update(recording) or 0.0
    if _was_alive(recording) and update < LARGE_UPDATE:
        return None  # slow, or on a plateau, rather than destroyed: nothing in the updates could have done it
    if _was_alive(recording):
        largest = [
            s.clipped_norm for s in recording.steps if s.clipped_norm is not None and math.isfinite(s.clipped_norm)
        ]
        what = (
            f"it no longer gets past {called(narrow.after, recording.kinds)}"
            if narrow and depth < WARN_NECK
            else "every input gives the same output"
        )
        place = narrow.before if narrow and depth < WARN_NECK else last
        return KILLED.at(
            place, severity=severity, what=what, update=update,
            clip=f"{stats.quantile(largest, 0.5):.2g}", **facts,
        )  # fmt: skip
    if _is_wild(recording, facts["constant"]):
        return None
    if narrow and depth < WARN_NECK:
        return STARVED.at(
            narrow.before, severity=severity, after=called(narrow.after, recording.kinds),
            at=called(narrow.before, recording.kinds),
            ratio=f"by a factor of {_ratio(-depth)}" if depth > -90 else "to exactly zero",
            remedy=_remedy(recording), **facts,
        )  # fmt: skip
    lost = _lost_at_once(recording)
    if lost is not None:
        before, place = lost
        if before != FIRST and any(s.module == place and s.kind in TABLES for s in recording.signals):
            return None  # a code that the model chooses: it moves with what is trained around it (straight-through)
        return LOST.at(
            place,
            severity=severity,
            before=called(before, recording.kinds),
            at=called(place, recording.kinds),
            **facts,
        )
    return BLIND.at(
        last,
        severity=severity,
        at=called(last, recording.kinds),
        remedy=_remedy(recording),
        **facts,
    )


def _lost_at_once(recording: Recording) -> tuple[str, str] | None:
    """(the layer before, the layer) where most of the variation goes at the start; None if it fades layer by layer."""
    rows = [(FIRST, 1.0)]
    rows += [(s.module, max(s.variance_share[0], 1e-12)) for s in recording.signals if s.variance_share[0] is not None]
    drops = [(math.log(a[1] / b[1]), a[0], b[0]) for a, b in itertools.pairwise(rows)]
    whole = sum(max(drop, 0.0) for drop, _, _ in drops)
    largest = max(drops, default=(0.0, "", ""))
    return largest[1:] if whole > 0 and largest[0] > AT_ONCE * whole else None


def _is_wild(recording: Recording, constant: float) -> bool:
    """Whether the last losses lie above what a model without signal comes down to, or scatter by more than that: something
    else keeps them there."""
    last = recording.losses[-TAIL:]
    mean = stats.mean(last)
    scatter = math.sqrt(stats.mean([(loss - mean) ** 2 for loss in last]))
    zero = recording.yardsticks.zero or 0.0
    return mean > GROWN * constant > 0 and (mean > GROWN * zero or scatter > GROWN * constant)


def _was_alive(recording: Recording) -> bool:
    """Whether gradient and signal were there within the first sampled steps."""
    for sample in range(min(2, len(recording.sampled) - 1)):
        narrow, share = neck(recording, sample), variance_share(recording, sample)
        wide = narrow is None or narrow.depth > WARN_NECK
        if wide and (share is None or share > HEALTHY_SHARE_AT_START):
            return True
    return False


def _remedy(recording: Recording) -> str:
    zero = [p.name for p in recording.parameters if p.constant_at_start and len(p.shape) >= 2 and p.trainable]
    if zero:
        return f"initialise {zero[0]} with random values (He for ReLU, Xavier for tanh): all its weights are equal"
    layers = len(recording.signals)
    normalised = any("Norm" in s.kind for s in recording.signals)
    parts = ["He initialisation for ReLU (Xavier for tanh)", "ReLU or GELU in place of sigmoid or tanh"]
    if layers > 8:
        parts.insert(0, f"residual connections around the blocks of this {layers}-layer model")
    if not normalised:
        parts.append("BatchNorm between the layers")
    return "; ".join(parts)


def _ratio(depth: float) -> str:
    return f"{math.exp(min(depth, 90)):.2g}"
