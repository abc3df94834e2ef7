"""Half precision, or small integers, lose the numbers that training lives on.

## What it looks at
Which precisions the set-up uses: of its weights, of the autocast regions seen in the trial, of its loss scaling. Where
there is half precision, the gradient of the same batch at the same weights is computed in float32 too and compared, by
direction and by what is flushed to zero. Where the weights themselves are in half precision, each update of the optimizer is
compared with the one meant, at the planned rates from the peak to the end of the schedule. Loss scaling is followed
through the trial: steps on gradients that are still scaled, steps skipped. Arithmetic on uint8 images is checked for results
that wrap around, and conversions to shorter floats for values that differ by less than their rounding.

## Why it matters
A gradient below 6e-8 is zero in float16, an update below a 256th of its weight vanishes in bfloat16, and 3 - 5 is 254 in uint8.
The loss curve shows only a model that stops improving.

## What to do
Keep the weights in float32 and let autocast lower the precision; a GradScaler for float16 (scale, unscale_, clip, step,
update). Convert images to float before doing arithmetic on them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Skip, experiment
from stabcheck.experiments import _precision_casts
from stabcheck.recording import Recording
from stabcheck.userland import UserCodeError

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.precision.gradients import GradientPair

STILL_SCALED = 10.0
"""Times the gradient with its scaling undone that the optimizer saw: the scale itself is 1,000 or more, rounding is none."""
SKIPPED = 0.5
"""Share of the later steps that a scaler skipped. It halves its scale at each, so in a sound set-up they end within 20."""
DESTROYED = 0.5
"""Cosine of the gradients in half precision and in float32 from which the direction is lost: below 60°, less than half of a step
goes where it should. Autocast in bfloat16 keeps .99 and more."""
ROUNDED_AWAY = 0.5
"""Share of the planned movement that is lost: the run moves its weights by less than half of what it means to."""
UNDERFLOWN = 0.5
"""Share of the gradient, by absolute value, in elements that are zero in float16 alone: most of it is not there at all."""
POINTS = 16
"""Of the schedule at which rounding is looked at."""

STILL_SCALED_STEP = Rule(
    "SC2101",
    "steps-on-scaled-gradients",
    "fail",
    message="the optimizer stepped on gradients that are still multiplied by the loss scale ({ratio:.2g} times too large "
    "at step {step})",
    fix="call scaler.step(optimizer) in place of optimizer.step(), and scaler.update() after it",
)
SKIPS = Rule(
    "SC2102",
    "steps-skipped-by-scaler",
    "fail",
    message="the GradScaler skipped {count} of the last {steps} steps because gradients were infinite or NaN (scale now "
    "{scale:.3g})",
    fix="something overflows float16 at any scale: look for activations above 65504 and compute them in float32; if "
    "the scale only grows back too fast, leave growth_interval at 2000",
)
UNSCALED = Rule(
    "SC2103",
    "float16-without-loss-scaling",
    "warn",
    message="the loss is computed in float16 and not scaled: {flushed:.0%} of the gradient's elements are too small for float16 "
    "and become zero already at the start, more as gradients shrink in training (what is left has a cosine of {cosine:.2f} to "
    "the float32 gradient, 1 is the same direction)",
    fix="scale the loss with torch.amp.GradScaler, or use bfloat16",
)
WRONG_DIRECTION = Rule(
    "SC2104",
    "gradient-lost-in-half-precision",
    "fail",
    message="in {dtype} the gradient has another direction than in float32 (cosine {cosine:.2f}, {flushed:.0%} of its "
    "elements are too small for it and become zero), most of all for {location}",
    fix="compute differences of large numbers, sums over many terms and the loss in float32 (tensor.float()), and "
    "normalise inputs and targets before they are cast",
)
LOST = Rule(
    "SC2105",
    "updates-rounded-away",
    "fail",
    message="the weights are {dtype}, and {over_run:.0%} of the optimizer's updates over the run is rounded away "
    "({at_peak:.0%} at the peak learning rate, {at_end:.0%} at the last)",
    fix="keep the weights in float32 and use torch.autocast for the forward, or give the optimizer float32 master "
    "weights; an update below a {grain} of a weight leaves it as it is",
    about=("model",),
)
EPS = Rule(
    "SC2106",
    "eps-zero-in-float16",
    "fail",
    message="the weights are float16, in which {kind}'s eps={eps:.0e} is zero: gradients too small to square are divided "
    "by zero, and the weights became NaN",
    fix="keep the weights in float32 with torch.autocast for the forward; if they must be float16, eps=1e-4",
    about=("optimizer",),
)
WRAPS = Rule(
    "SC2107",
    "integer-overflow",
    "fail",
    message="'{operation}' on {dtype} gives numbers that {dtype} cannot hold: {share:.0%} of the results wrapped around",
    fix="convert to float first: images.float()",
    why="Numbers that wrap around are wrong without being strange: 3 - 5 is 254 in uint8. The model learns from noise.",
)
OVERFLOW = Rule(
    "SC2108",
    "overflow-in-half-precision",
    "fail",
    message="the loss or its gradient is infinite or NaN in {dtype} and finite in float32{place}",
    fix="{remedy}",
)


@experiment(
    title="Precision",
    about=("train_step", "model"),
    rules=(STILL_SCALED_STEP, SKIPS, UNSCALED, WRONG_DIRECTION, LOST, EPS, WRAPS, OVERFLOW, _precision_casts.WIPED),
    needs_trial=True,
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Look for half precision; where there is none, stop."""
    from stabcheck.trial.precision.integer_overflow import first_wrap

    recording, session = bench.recording, bench.shared()
    if recording is None:
        raise Skip("no trial was recorded, so it is not known in which precision the set-up computes")
    declared = {"bf16": "bfloat16", "fp16": "float16"}.get(session.setup.precision)
    seen = recording.precision.autocast
    weights = _dtypes(p.dtype for p in session.model.parameters())
    measured: dict[str, Any] = {"weights": weights, "autocast": list(seen), "loss_scaled": recording.precision.scaled}
    notes: list[NotChecked] = []
    wrap = first_wrap(session, bench.seed)
    findings = (
        [WRAPS.at(source=wrap.source, operation=wrap.operation, dtype=wrap.dtype, share=wrap.share)] if wrap else []
    )
    half_weights = [name for name in ("float16", "bfloat16") if name in weights]
    dtype = next(iter([*half_weights, *seen, *([declared] if declared else [])]), None)
    if dtype is None:
        findings = findings or _precision_casts.judge(bench)
        return Outcome(
            summary=findings[0].message if findings else "no half precision anywhere", findings=tuple(findings),
            measurements=measured,
        )  # fmt: skip
    scaling = _scaling(bench, recording)
    findings += _eps(recording, weights)
    if not scaling and not findings:
        findings += _underflow(bench, recording, dtype, measured, notes)
    if not scaling and not findings:
        findings += _gradients(bench, recording, dtype, measured, notes)
    elif scaling and scaling[0].code == SKIPS.code:
        scaling = _behind_skips(bench, recording, dtype) or scaling
    findings += scaling
    if half_weights and not findings:
        findings += _rounding(bench, measured, notes)
    findings = findings or _precision_casts.judge(bench)
    what = f"weights in {', '.join(weights)}" + (f", autocast to {', '.join(seen)}" if seen else "")
    cosine = measured.get("cosine")
    told = f"; gradient as in float32 (cosine {cosine:.3f})" if cosine is not None else ""
    return Outcome(findings[0].message if findings else what + told, tuple(findings), measured, tuple(notes))


def _dtypes(values: Any) -> list[str]:
    return list(dict.fromkeys(str(v).removeprefix("torch.") for v in values))


def _scaling(bench: Bench, recording: Recording) -> list[Finding]:
    """Loss scaling as the trial saw it."""
    facts, source = recording.precision, bench.source(bench.shared().setup.train_step)
    for step in recording.steps:
        raw, given = step.grad_norm, step.clipped_norm
        if step.index in facts.around_scaler and raw and given and given > STILL_SCALED * raw:
            return [STILL_SCALED_STEP.at(source=source, ratio=given / raw, step=step.index)]
    late = [step.index for step in recording.steps[len(recording.steps) // 2 :]]
    skipped = [index for index in late if index in facts.skipped]
    tried = len(skipped) + sum(recording.steps[i].stepped for i in late)
    if skipped and len(skipped) >= SKIPPED * tried:
        return [SKIPS.at(source=source, count=len(skipped), steps=tried, scale=facts.last_scale or math.nan)]
    return []


def _behind_skips(bench: Bench, recording: Recording, dtype: str) -> list[Finding]:
    """What overflows whatever the scale, if that can be seen."""
    facts, notes = recording.precision, list[NotChecked]()
    unscaled = replace(recording, precision=replace(facts, last_scale=1.0))
    found = _gradients(bench, unscaled, dtype, {}, notes)
    return [finding for finding in found if finding.code == OVERFLOW.code]


def _eps(recording: Recording, weights: list[str]) -> list[Finding]:
    """The denominators of adaptive optimizers in float16. Its smallest number is 6e-8, and half of it rounds to zero."""
    broken = recording.first_non_finite is not None
    for facts in recording.optimizers:
        eps = max((float(group.get("eps") or 0.0) for group in facts.groups), default=0.0)
        adaptive = any("beta2" in group or "alpha" in group for group in facts.groups)
        if facts.is_torch and adaptive and weights[:1] == ["float16"] and eps < 2.0**-25 and broken:
            return [EPS.at(kind=facts.kind, eps=eps)]
    return []


def _underflow(
    bench: Bench, recording: Recording, dtype: str, measured: dict[str, Any], notes: list[NotChecked]
) -> list[Finding]:
    """What the user's own step loses under autocast, in one batch: its loss may be another than the set-up's."""
    from stabcheck.trial.precision.own_step import underflow

    setup, facts = bench.shared().setup, recording.precision
    if setup.train_step is None or dtype != "float16" or "float16" not in facts.autocast or facts.scaled:
        return []
    try:
        found = underflow(bench)
    except (UserCodeError, Skip, RuntimeError) as error:
        notes.append(
            NotChecked("the step's own gradient against the one in float32", " ".join(str(error).split())[:200])
        )
        return []
    if found is None:
        return []
    measured |= {"step_flushed": found.flushed, "step_lost": found.lost}
    if found.lost < UNDERFLOWN:
        return []
    source = bench.source(setup.train_step)
    return [UNSCALED.at(source=source, severity="fail", dtype=dtype, cosine=found.cosine, flushed=found.flushed)]


def _gradients(
    bench: Bench, recording: Recording, dtype: str, measured: dict[str, Any], notes: list[NotChecked]
) -> list[Finding]:
    """The gradient against the one in float32, on two batches where the first shows a fault."""
    from stabcheck.trial.precision.gradients import gradient_pair

    session, facts = bench.shared(), recording.precision
    hidden = facts.autocast[0] if facts.autocast and session.setup.precision == "fp32" else None
    scale = facts.last_scale if facts.scaled and facts.last_scale else 1.0
    seen: list[GradientPair] = []
    try:
        for batch in session.epoch("train_loader"):
            seen.append(gradient_pair(session, batch, bench.seed, autocast=hidden, scale=scale))
            if len(seen) == 2 or seen[0].cosine >= DESTROYED:
                break
    except (UserCodeError, Skip, RuntimeError) as error:
        notes.append(NotChecked("the gradient against the one in float32", " ".join(str(error).split())[:200]))
        return []
    first = seen[0]
    if first.random or not first.full_finite:
        why = "it is random" if first.random else "it is not finite in float32 either"
        notes.append(NotChecked("the gradient against the one in float32", why))
        return []
    measured |= {"cosine": first.cosine, "flushed": first.flushed, "norm_ratio": first.ratio}
    source = bench.source(session.setup.compute_loss or session.setup.loss_fn)
    shown: dict[str, Any] = {"dtype": dtype, "cosine": first.cosine, "flushed": first.flushed}
    if not any(side.low_finite for side in seen):
        return [_overflow(first, dtype, source)]
    lost = all(side.low_finite and not (side.cosine >= DESTROYED and side.ratio >= DESTROYED) for side in seen)
    lost = lost and len(seen) == 2 and all(not math.isnan(side.ratio) for side in seen)
    if dtype == "float16" and not facts.scaled and any(step.stepped for step in recording.steps):
        return [UNSCALED.at(source=source, severity="fail" if lost else "warn", **shown)]
    return [WRONG_DIRECTION.at(first.worst, source=source, **shown)] if lost else []


def _overflow(first: GradientPair, dtype: str, source: Any) -> Finding:
    place = f": it starts in {first.overflow}" if first.overflow else ""
    remedy = "compute what overflows in float32 (tensor.float()), or normalise it"
    remedy += "; bfloat16 reaches as far as float32" if dtype == "float16" else ""
    return OVERFLOW.at(first.overflow, source=source, dtype=dtype, place=place, remedy=remedy)


def _rounding(bench: Bench, measured: dict[str, Any], notes: list[NotChecked]) -> list[Finding]:
    """The movement of half-precision weights over the planned run."""
    from stabcheck.trial.precision.rate_factors import planned_factors
    from stabcheck.trial.precision.rounding import lost_updates

    try:
        factors, peak = planned_factors(bench, POINTS)
        lost = lost_updates(bench, factors, peak)
    except (UserCodeError, Skip, RuntimeError, TypeError, ValueError) as error:
        lost = " ".join(str(error).split())[:200]
    if isinstance(lost, str):
        notes.append(NotChecked("how many updates are rounded away", lost))
        return []
    measured |= {"lost_at_peak": lost.at_peak, "lost_at_end": lost.at_end, "lost_over_run": lost.over_run}
    if lost.over_run < ROUNDED_AWAY:
        return []
    grain = "512th" if lost.dtype == "bfloat16" else "4096th"
    return [LOST.at(dtype=lost.dtype, over_run=lost.over_run, at_peak=lost.at_peak, at_end=lost.at_end, grain=grain)]
