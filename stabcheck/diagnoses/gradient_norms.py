"""Gradients that are missing, infinite or clipped away; the norms of every parameter are logged.

## What it looks at
The norm of every parameter's gradient at each step of the trial, as backward left it and as the optimizer saw it
after clipping. A parameter that never gets a gradient is told apart: frozen by you, not reached because its module never ran
or its output goes unused, or cut off, which is the fault: the loss changes when the parameter is disturbed, and
yet backward brings it nothing.

## Why it matters
One infinite gradient turns the weights into NaN. A parameter that is cut off keeps its random start while the run looks
normal. A clip threshold far below the usual norm is a learning rate many times smaller than the one written down.

## What to do
Non-finite: add a small constant inside sqrt, log and divisions at the parameter named. Cut off: remove the .detach(),
.data, .item(), torch.tensor(...) or no_grad() between it and the loss. Clipping: set the threshold near the 90th
percentile of the norms shown.
"""

from __future__ import annotations

import math

from stabcheck import profiles, stats
from stabcheck.check import Finding, Outcome, Rule, Skip, diagnosis
from stabcheck.diagnoses import _gradient_norms_missing as _missing
from stabcheck.reading import SCALE_FREE, is_bad_from_nowhere, largest_update, progress
from stabcheck.recording import CONSTANT_LEVEL, OPTIMIZER_STEPS, Parameter, Recording

STRANGLED = 100.0
"""Median of norm over threshold. Clipping at every step is common and harmless; by two orders of magnitude it is another
learning rate."""
CLIPS_NEARLY_ALWAYS = 0.9
"""Share of the steps that are clipped, from which the threshold decides the step and not the gradient."""
SMALL_UPDATE = 0.01
"""Largest update over weight norm: below it in 78 % of the trainings whose rate was too low, in 4 % of the others."""
SETTLED = 10
"""Steps before this are the start, where norms change for good reason."""
SPIKE = 30.0
"""A norm so many times the median after the start."""
NON_FINITE = Rule(
    "SC0201",
    "non-finite-gradient",
    "fail",
    "the gradient of {location} is infinite or NaN at step {step}, while the loss is still finite ({loss:.3g})",
    "look for sqrt, log, norm, division or acos at 0 on the way from {location} to the loss, and add a small constant inside "
    "it (sqrt(x + 1e-12)); torch.autograd.set_detect_anomaly(True) names the line",
)
STRANGLING = Rule(
    "SC0203",
    "strangling-clip",
    "fail",
    "clipping at {threshold:.3g} scales the gradient down at {share:.0%} of the steps, {factor:.0f} times at the median: the "
    "largest update is {update:.1e} of a weight's norm and nothing is learnt",
    "clip at {proposal:.2g} (the 90th percentile of the norms measured), or raise the learning rate accordingly",
    about=("train_step", "optimizer"),
    why="A clip threshold far below the usual norm is a learning rate many times smaller than the one written down.",
)
SPIKES = Rule(
    "SC0204",
    "unclipped-spikes",
    "warn",
    "the gradient norm jumps to {largest:.3g} at step {step}, {factor:.0f} times its median, the loss rises "
    "after it, and nothing clips it",
    "clip the gradient norm at {proposal:.2g} (the 90th percentile measured)",
    about=("train_step", "optimizer"),
    why="One such step can undo what hundreds of others have learnt.",
)
BAD_INPUT = Rule(
    "SC0205",
    "non-finite-batch",
    "fail",
    "the batch of step {step} holds NaN or infinite values, and the loss with it",
    "find the samples in the dataset behind train_loader (torch.isnan) and drop or impute them",
    about=("train_loader",),
    why="One NaN in a batch makes the loss, and from the next update on every weight, NaN.",
)


BAD_LOSS = Rule(
    "SC0206",
    "non-finite-loss",
    "fail",
    "the loss is infinite or NaN at step {step}, though every layer's output is finite and nothing grew before, so every "
    "gradient is too",
    "look into the loss on that batch: the logarithm of 0, a mean over nothing (all labels ignored or masked), a division by "
    "a count of 0, targets that do not fit the outputs (as CTC with fewer frames than labels)",
    about=("compute_loss", "loss_fn", "train_step", "model"),
)


@diagnosis(
    title="Gradient norms",
    about=("model",),
    rules=tuple(
        sorted((NON_FINITE, STRANGLING, SPIKES, BAD_INPUT, BAD_LOSS, *_missing.RULES), key=lambda rule: rule.code)
    ),
    reads=(OPTIMIZER_STEPS, CONSTANT_LEVEL),
)
def CHECK(recording: Recording) -> Outcome:  # noqa: N802
    """Judge the log of gradient norms."""
    totals = [s.grad_norm for s in recording.steps]
    if not any(t is not None for t in totals):
        raise Skip("no gradient was seen in any step of the trial")
    findings = [
        *_non_finite(recording),
        *_missing.judge(recording),
        *_clipping(recording),
        *_spikes(recording),
    ]
    silent = [p for p in recording.parameters if _missing.never(p)]
    frozen = [p.name for p in silent if not p.trainable]
    unused = [p.name for p in silent if p.trainable and p.matters is not True]
    finite = [t for t in totals if t is not None and math.isfinite(t)]
    measured = {
        "steps": [s.index for s in recording.steps], "total": totals, "clipped": [s.clipped_norm for s in recording.steps],
        "parameters": [_row(p) for p in recording.parameters if not _missing.never(p)], "frozen": frozen, "unused": unused,
        "clip_threshold": _threshold(recording), "suggested_clip": stats.quantile(finite, 0.9) if finite else None,
        "trial": profiles.trial(recording), "by_layer": profiles.gradients(recording), "updates": profiles.updates(recording),
    }  # fmt: skip
    count = len(recording.parameters) - len(silent)
    taken = "1 step" if len(totals) == 1 else f"{len(totals)} steps"
    summary = f"{count} parameters logged over {taken}, total norm {stats.median(finite):.3g} at the median"
    if frozen:
        summary += f", {len(frozen)} frozen"
    if unused:
        summary += f", {len(unused)} never used"
    if findings:
        summary = findings[0].message
    return Outcome(summary, tuple(findings), measured)


def _row(parameter: Parameter) -> dict[str, object]:
    values = [v for v in parameter.grad_norm if v is not None] or [v for v in parameter.clipped_norm if v is not None]
    clipped = [v for v in parameter.clipped_norm if v is not None]
    finite = [v for v in values if math.isfinite(v)]
    return {
        "name": parameter.name, "first": values[0], "median": stats.median(finite) if finite else math.nan,
        "max": max(finite, default=math.nan), "last": values[-1], "clipped_median": stats.median(clipped) if clipped else None,
    }  # fmt: skip


def _threshold(recording: Recording) -> float | None:
    clipping = recording.clipping
    return clipping.observed if clipping.observed is not None else clipping.declared


def _non_finite(recording: Recording) -> list[Finding]:
    if recording.first_non_finite is None:
        return []
    what, where, step = recording.first_non_finite
    if what == "input":
        return [BAD_INPUT.at(None, step=step)]
    if what == "loss" and is_bad_from_nowhere(recording, step):
        return [BAD_LOSS.at(None, step=step)]
    if what != "gradient" or not is_bad_from_nowhere(recording, step):
        return []
    loss = recording.steps[step].loss
    return [NON_FINITE.at(where, step=step, loss=math.nan if loss is None else loss)]


def _clipping(recording: Recording) -> list[Finding]:
    threshold = _threshold(recording)
    norms = [
        s.grad_norm for s in recording.steps if s.stepped and s.grad_norm is not None and math.isfinite(s.grad_norm)
    ]
    if not threshold or not norms or any(o.kind in SCALE_FREE for o in recording.optimizers):
        return []
    share = sum(n > threshold for n in norms) / len(norms)
    factor, update = stats.median(norms) / threshold, largest_update(recording)
    is_harmful = progress(recording).stalled and update is not None and update < SMALL_UPDATE
    if share < CLIPS_NEARLY_ALWAYS or factor < STRANGLED or not is_harmful:
        return []
    return [
        STRANGLING.at(
            None, threshold=threshold, share=share, factor=factor, update=update, proposal=stats.quantile(norms, 0.9)
        )
    ]


def _spikes(recording: Recording) -> list[Finding]:
    rows = [
        s for s in recording.steps[SETTLED:] if s.stepped and s.grad_norm is not None and math.isfinite(s.grad_norm)
    ]
    if len(rows) < SETTLED or _threshold(recording) is not None:
        return []
    values = [s.grad_norm for s in rows if s.grad_norm is not None]
    middle = stats.median(values)
    largest, step = max((s.grad_norm or 0.0, s.index) for s in rows)
    before = [s.loss for s in recording.steps[max(0, step - 5) : step + 1] if s.loss is not None]
    after = [s.loss for s in recording.steps[step + 1 : step + 6] if s.loss is not None]
    if middle <= 0 or largest < SPIKE * middle or not after or min(after) <= max(before):
        return []
    return [SPIKES.at(None, largest=largest, factor=largest / middle, step=step, proposal=stats.quantile(values, 0.9))]
