"""Weights start equal, or so large or small that the signal does not survive them.

## What it looks at
Every weight that the model multiplies with, as it is used: by layers, by functions, or by a layer written by hand. Do all
units of a hidden layer start alike, and are they still alike after your own steps have moved them? Is a weight
many times larger or smaller than what keeps the size of the signal, or does a bias start far from zero, and does the trial learn
nothing? Then the trial is run again with only these weights scaled, or these biases at zero, and the finding is raised if that
learns. Layers that start at zero by design (residual branches,
LoRA, heads, gates), and large or small weights and biases that train all the same, are left alone.

## Why it matters
Equal units get equal gradients: a layer of 128 stays one unit, however long the run. Weights ten times too large or small
over a few layers multiply the signal by thousands; the loss starts far above a constant guess, or the gradient is gone.

## What to do
Initialise each weight at random with a standard deviation near 1/sqrt(inputs): the default of PyTorch's layers, He for ReLU,
Xavier for tanh. Zeros belong only into biases and into the last layer of a residual branch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Skip, experiment
from stabcheck.reading import called, progress, starts_far_off
from stabcheck.userland import UserCodeError

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.weights import Weight

LARGE, SMALL = 5.0, 0.1
"""Standard deviation times sqrt(inputs). LeCun's initialisation has 1, He's 1.41, PyTorch's default 0.58, GPT-2's 0.02 has 0.16
at 64 inputs. Normal weights with a
standard deviation of 1 exceed it from 26 inputs on; on 20 they recover within a few dozen steps (verdicts of 5 seeds differ). These
only choose what the second trial scales; its result decides."""
HE = math.sqrt(2)
"""The largest scale in common use. What lies above it in many layers multiplies up to what one layer far off does."""
MENDED = 1.2
"""What the second trial scales them to: between LeCun and He."""

EQUAL = Rule(
    "SC1001",
    "identical-units",
    "fail",
    message="all {units} units of {at} start with the same weights and stay the same in training, so together they do no "
    "more than one{others}",
    fix="initialise {at} with random values (He for ReLU, Xavier for tanh), not with a constant",
    why="Equal units get equal gradients: a layer of 128 stays one unit, however long the run.",
)
TOO_LARGE = Rule(
    "SC1002",
    "initial-weights-too-large",
    "fail",
    message="the weights of {at} start {excess:.3g} times larger than what keeps the scale of the signal (standard "
    "deviation {std:.2g}, {inputs} inputs){others}, and nothing is learnt in {steps} steps (loss {first:.3g} to "
    "{last:.3g}, best constant guess {constant:.3g}); with these weights scaled down, the same steps reach "
    "{better:.3g}",
    fix="initialise with a standard deviation of about {proposal:.2g} (1/sqrt(inputs); He is 1.4 times that)",
    why="Weights ten times too large over a few layers multiply the signal by thousands: the loss starts far too high.",
)
TOO_SMALL = Rule(
    "SC1003",
    "initial-weights-too-small",
    "fail",
    message="the weights of {at} start {excess:.3g} times smaller than what keeps the scale of the signal (standard "
    "deviation {std:.2g}, {inputs} inputs){others}, and nothing is learnt in {steps} steps (loss {first:.3g} to "
    "{last:.3g}, best constant guess {constant:.3g}); with these weights scaled up, the same steps reach "
    "{better:.3g}",
    fix="initialise with a standard deviation of about {proposal:.2g} (1/sqrt(inputs); He is 1.4 times that)",
    why="Weights ten times too small over a few layers leave nothing of the signal, and nothing of the gradient.",
)

FAR_BIAS = Rule(
    "SC1004",
    "oversized-bias",
    "fail",
    "the bias of {at} has a size of {size:.4g} at the start{others}, which outweighs what its inputs bring, and nothing is learnt "
    "in {steps} steps (loss {first:.3g} to {last:.3g}, best constant guess {constant:.3g}); at zero it reaches {better:.3g}",
    "start this bias at zero (the forget gate of an LSTM at 1, an output at the mean of its targets)",
    why="What the inputs say is small beside a bias that is far off: training first spends its steps on the bias.",
)


@experiment(title="Initialization", about=("model",), rules=(EQUAL, TOO_LARGE, TOO_SMALL, FAR_BIAS), needs_trial=True)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Look at the weights at the start; train again only where something about them may be wrong."""
    from stabcheck.trial.weights import weights_in_use

    recording = bench.recording
    assert recording is not None
    try:
        weights = weights_in_use(bench)
    except UserCodeError as error:
        raise Skip(f"no forward of the model can be watched: {error.message}") from None
    if not weights:
        raise Skip("the model multiplies with no trainable weight of more than one axis that could be followed")
    state, not_checked = progress(recording), list[NotChecked]()
    findings = _equal(bench, weights)
    if not findings and state.share is None:
        not_checked.append(
            NotChecked("the size of the weights", "it is not known what nothing learnt means for this loss")
        )
    elif not findings and (state.stalled or (state.is_low and starts_far_off(recording))):
        findings = _size(bench, weights) or _biases(bench)
    scales = [(w.name, w.scale) for w in weights]
    reference = state.constant if state.constant is not None else math.nan
    measured: dict[str, Any] = {
        "first_loss": state.first, "constant_loss": state.constant, "zero_loss": recording.yardsticks.zero,
        "weight_scales": [[name, scale] for name, scale in scales],
    }  # fmt: skip
    low, high = min(s for _, s in scales), max(s for _, s in scales)
    summary = (
        findings[0].message
        if findings
        else f"initial weights of {len(weights)} layers: deviation {low:.2g} to {high:.2g} / sqrt(inputs); first loss "
        f"{state.first:.3g} (best constant guess {reference:.3g})"
    )
    return Outcome(summary, findings, measured, tuple(not_checked))


def _equal(bench: Bench, weights: list[Weight]) -> tuple[Finding, ...]:
    """Hidden layers only: the units of the last one may well be asked for the same."""
    from stabcheck.trial.symmetry import equal_units, never_told_apart

    candidates = [w for w in weights[:-1] if equal_units(w) and _has_gradient(bench, w)]
    if not candidates:
        return ()
    try:
        alike = never_told_apart(bench, candidates)
    except UserCodeError:
        return ()
    if not alike:
        return ()
    first = alike[0]
    return (
        EQUAL.at(
            first.name, at=called(first.name, bench.kinds), units=first.rows.shape[1],
            layers=[called(w.name, bench.kinds) for w in alike], others=_others(alike),
        ),
    )  # fmt: skip


def _has_gradient(bench: Bench, weight: Weight) -> bool:
    """Without one the units are dead rather than equal, and that is another check's finding."""
    assert bench.recording is not None
    prefix = f"{weight.module}." if weight.module else ""
    return any(any(p.grad_norm) for p in bench.recording.parameters if p.name.startswith(prefix) and len(p.shape) >= 2)


def _size(bench: Bench, weights: list[Weight]) -> tuple[Finding, ...]:
    from stabcheck.trial.counterfactual import compare
    from stabcheck.trial.session import Session
    from stabcheck.trial.weights import multiply

    for rule, chosen in (
        (TOO_LARGE, _large(weights)),
        (TOO_SMALL, [w for w in weights if 0 < w.scale < SMALL]),
    ):
        if not chosen:
            continue

        def scale(session: Session, chosen: list[Weight] = chosen) -> None:
            for weight in chosen:
                multiply(session.model, weight, MENDED / weight.scale)

        found = compare(bench, scale)
        if found is None:
            continue
        furthest = max(abs(math.log(w.scale)) for w in chosen)
        worst = next(w for w in chosen if abs(math.log(w.scale)) > furthest - math.log(2))
        inputs = worst.rows.shape[-1]
        return (
            rule.at(
                worst.name, severity=found.severity, at=called(worst.name, bench.kinds), inputs=inputs,
                excess=max(worst.scale, 1 / worst.scale), std=worst.scale / math.sqrt(inputs), proposal=1 / math.sqrt(inputs),
                layers=[called(w.name, bench.kinds) for w in chosen], others=_others(chosen), **found.facts,
            ),
        )  # fmt: skip
    return ()


def _large(weights: list[Weight]) -> list[Weight]:
    """Weights that are far too large, or else those that are so together."""
    finite = [w for w in weights if math.isfinite(w.scale)]
    above = [w for w in finite if w.scale > HE]
    together = sum(math.log(w.scale / HE) for w in above) > math.log(LARGE)
    return [w for w in finite if w.scale > LARGE] or (above if together else [])


def _biases(bench: Bench) -> tuple[Finding, ...]:
    from stabcheck.trial.biases import large_biases, set_to_zero
    from stabcheck.trial.counterfactual import compare

    assert bench.recording is not None
    chosen = large_biases(bench.shared().model)
    if not chosen:
        return ()
    found = compare(bench, lambda session: set_to_zero(session.model, chosen))
    if found is None:
        return ()
    worst = max(chosen, key=lambda b: b.size)
    count, at = len({(b.module, b.gate) for b in chosen}) - 1, called(worst.module, bench.kinds)
    return (
        FAR_BIAS.at(
            worst.parameter, severity=found.severity,
            at=f"the {worst.gate} gate of {at}" if worst.gate else at, size=worst.size,
            others=f" (and {count} more)" if count else "", biases=[b.parameter for b in chosen], **found.facts,
        ),
    )  # fmt: skip


def _others(weights: list[Weight]) -> str:
    count = len({w.name for w in weights}) - 1
    return f" (and {count} more layer{'s' * (count > 1)})" if count else ""
