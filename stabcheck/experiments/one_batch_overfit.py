"""One real batch cannot be memorised, or your own optimizer at your own learning rate does not do it.

## What it looks at
Two questions about one real batch. *Can* the set-up fit it: stabcheck's own Adam, dropout off, all other randomness held
still. That tests loss, graph, data and capacity. *Does* it: your own training step at the planned peak of your
learning rate. Judged by how far the loss comes from the best constant prediction towards the loss's own
floor, which is above zero for label smoothing, contrastive losses and VAEs; never by an absolute loss. If the loss is random
(dropout, noise), a third fit lets the randomness move, to see whether a signal is left. If your step fits something and the
set-up's loss on the batch does not fall with it, two samples are trained on, apart and together, to see whether it mixes pairs.

## Why it matters
A model that cannot memorise sixteen samples will not learn sixteen million. More than half of the silent bugs
reported by PyTorch users leave a trace here.

## What to do
The finding says whose fault it is. Can, but does not: the learning rate named, or the wiring of the optimizer. Cannot:
inputs that do not reach the output, equal inputs with different labels, a loss that cannot tell good predictions
from bad, or too little capacity.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Skip, Source, experiment
from stabcheck.experiments import _one_batch_overfit_own_step as _own_step

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.overfit.attempts import Attempts

FITTED = 0.1
"""Share of the way left between floor and constant prediction: 97 % of 70 healthy set-ups get below it in 160 steps."""
NOT_FITTED = 0.5
"""Injected faults stay above it: nothing trainable .87, inputs zeroed 1.0, softmax before cross-entropy .80, sigmoid before
an unbounded target .55, equal inputs with different labels 1.0 (3-7 nets each)."""
LENIENT_NOT_FITTED = 0.9
"""The same for losses that go below zero, as log-densities do, whose floor is only reached by predictions of vanishing width,
and for models of which the smaller part is trained, as with adapters, which have not the capacity and need it not."""
NO_SIGNAL = 0.9
"""Share left that is all there was: when randomness moves, though the batch is fitted when it stands still; or against a constant
guess, though the loss has fallen."""

UNUSED_INPUT = Rule(
    "SC0101",
    "inputs-without-effect",
    "fail",
    "one batch of {samples} samples cannot be fitted (loss {final:.3g}, best constant guess {constant:.3g}), and with its inputs "
    "zeroed it goes just as well: the inputs have no effect on the output",
    "follow the input through forward(): a mask that hides everything, a wrong slice or argument, tokens that are all unknown, "
    "a layer whose output is dropped",
)
CONFLICTING = Rule(
    "SC0102",
    "equal-inputs-different-labels",
    "fail",
    "{count} of {samples} samples in one batch have the same input as another but a different target, so no model can fit them "
    "(loss {final:.3g}, best constant guess {constant:.3g})",
    "check how inputs and targets are paired in the dataset and the collate function",
)
BLIND_LOSS = Rule(
    "SC0103",
    "loss-blind-to-predictions",
    "fail",
    "the loss cannot tell the best possible prediction ({oracle:.3g}) from the best constant one ({constant:.3g}) on a batch with "
    "different targets",
    "compare the shapes that reach the loss{shapes}: (N, 1) against (N,) is broadcast to (N, N); squeeze or unsqueeze one of them",
)
CUT = Rule(
    "SC0104",
    "loss-without-graph",
    "fail",
    "the loss has no gradient to any parameter of the model ({why})",
    "compute it from the model's outputs without .detach(), .item(), argmax or no_grad(), and keep requires_grad on",
)
CANNOT = Rule(
    "SC0105",
    "cannot-fit-one-batch",
    "fail",
    "one batch of {samples} samples cannot be fitted by any of the rates {rates}: the loss stays at {final:.3g} (best "
    "constant guess {constant:.3g}, lowest possible {oracle:.3g})",
    "look for a layer too narrow for {samples} samples, an activation on the output that cannot reach the targets (ReLU, "
    "sigmoid, softmax before the loss), detached features, or a signal that dies on its way",
)
DROWNED = Rule(
    "SC0106",
    "signal-lost-in-noise",
    "fail",
    "with randomness held still one batch is fitted (loss {still:.3g}), but with {noise} drawn anew at each step nothing is "
    "learnt in {steps} steps (loss {final:.3g}, best constant guess {constant:.3g})",
    "{remedy}",
)
BESIDE = Rule(
    "SC0113",
    "loss-falls-beside-predictions",
    "fail",
    "the loss of one batch falls from {first:.4g} to {final:.4g} in {steps} steps, but at the last weights a constant guess has "
    "{constant:.4g}: only what does not depend on the predictions has fallen, and of the inputs nothing is learnt",
    "give the penalty or divergence in the loss less weight: divide a sum over weights or latents as the other part is divided, by "
    "the number of samples or of elements",
)
BAD_LOSS = Rule(
    "SC0111",
    "non-finite-first-loss",
    "fail",
    "the loss of the first batch is {first} before any update",
    "look for the logarithm or root of 0, a mean over nothing, a division by 0, or targets that do not fit the outputs",
)


@experiment(
    title="Overfits one batch",
    about=("compute_loss", "loss_fn", "train_step", "model"),
    rules=(
        UNUSED_INPUT, CONFLICTING, BLIND_LOSS, CUT, CANNOT, DROWNED, *_own_step.RULES, BAD_LOSS, BESIDE,
    ),
    cost="dear",
)  # fmt: skip
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Can the set-up fit one batch, and does it?"""
    from stabcheck.trial.overfit.attempts import Attempts
    from stabcheck.trial.overfit.levels import LossUnknown, choose
    from stabcheck.trial.overfit.own import OwnStep

    session = bench.session()
    not_checked: list[NotChecked] = []
    attempts: Attempts | None = None
    findings: tuple[Finding, ...] = ()
    curves: dict[str, list[float]] = {}
    try:
        attempts = Attempts(bench, session, choose(session, bench.seed))
    except LossUnknown as reason:
        not_checked.append(NotChecked("whether the model can fit one batch at all", str(reason)))
    else:
        findings = _can(bench, attempts) or _drowned(bench, attempts)
        curves |= attempts.curves
    if not findings:
        try:
            own = OwnStep(bench, attempts.chosen if attempts else None)
            findings = _own_step.does(own, attempts, _limit(attempts), not_checked)
            curves |= own.curves
        except Skip as skip:
            not_checked.append(NotChecked("one batch with your own optimizer", skip.reason))
    if not curves and not findings:
        raise Skip("; ".join(item.why for item in not_checked))
    measured: dict[str, Any] = {"curves": curves}
    if attempts is not None:
        levels = attempts.chosen.levels
        measured |= {"constant": levels.constant, "oracle": levels.oracle, "samples": attempts.chosen.samples}
    summary = findings[0].message if findings else _summary(curves)
    return Outcome(summary, findings, measured, tuple(not_checked))


def _summary(curves: dict[str, list[float]]) -> str:
    told = {name: curve for name, curve in curves.items() if name in {"stabcheck's Adam", "your optimizer"}}
    return "; ".join(f"{name}: loss {c[0]:.3g} to {min(c):.3g} in {len(c)} steps" for name, c in told.items())


def _loss_source(bench: Bench, attempts: Attempts) -> Source | None:
    setup = attempts.session.setup
    return bench.source(setup.compute_loss or setup.loss_fn or setup.model)


def _can(bench: Bench, attempts: Attempts) -> tuple[Finding, ...]:
    """Fit with our own optimizer, everything random held still."""
    from stabcheck.trial.overfit.levels import blind_spot, conflicting

    chosen, session, source = attempts.chosen, attempts.session, _loss_source(bench, attempts)
    if chosen.cut:
        return (CUT.at(None, source=source, why=chosen.cut),)
    if not math.isfinite(chosen.first):
        return (BAD_LOSS.at(None, source=source, first=str(chosen.first)),)
    facts: dict[str, Any] = {"samples": chosen.samples, "constant": chosen.height, "oracle": chosen.floor}
    shapes = blind_spot(session, chosen, bench.seed)
    if shapes is not None:
        return (BLIND_LOSS.at(None, source=source, shapes=shapes, **facts),)
    left = attempts.fit_still(FITTED)
    if left <= _limit(attempts):
        beside = attempts.falls_without_fitting(NO_SIGNAL)
        return (BESIDE.at(None, source=source, samples=chosen.samples, **asdict(beside)),) if beside else ()
    facts |= {"final": attempts.still_loss, "share_left": left}
    count = conflicting(session, chosen)
    if count:
        return (CONFLICTING.at(None, source=source, count=count, **facts),)
    if attempts.inputs_are_unused(left):
        return (UNUSED_INPUT.at(None, source=source, **facts),)
    rates = ", ".join(f"{r:.0e}" for r in attempts.rates_tried)
    return (CANNOT.at(None, source=source, rates=rates, **facts),)


def _limit(attempts: Attempts | None) -> float:
    """Share left above which one batch is not fitted."""
    if attempts is None:
        return NOT_FITTED
    return LENIENT_NOT_FITTED if attempts.chosen.floor < 0 or attempts.is_mostly_frozen else NOT_FITTED


def _drowned(bench: Bench, attempts: Attempts) -> tuple[Finding, ...]:
    """Whether a signal is left when everything random moves."""
    from stabcheck.trial.overfit.dropout import strongest_dropout

    if not attempts.is_stochastic():
        return ()
    left, final, steps = attempts.fit_moving(NO_SIGNAL)
    if left <= NO_SIGNAL:
        return ()
    place = strongest_dropout(attempts.session.model)
    noise, remedy = (
        "dropout",
        "lower the dropout probability: at this one hardly a unit survives in two batches running",
    )
    if place is None or not attempts.noise_is_dropout(NO_SIGNAL):
        place, noise = None, "noise, targets or labels"
        remedy = (
            "make sure that what is predicted is the very noise or label that the input was made with: draw it once per "
            "step and use it in both places; where the noise is added to a latent, as in a VAE, give the divergence less weight"
        )
    facts: dict[str, Any] = {
        "still": attempts.still_loss,
        "noise": noise,
        "steps": steps,
        "final": final,
        "share_left": left,
    }
    source = _loss_source(bench, attempts)
    return (DROWNED.at(place, source=source, remedy=remedy, constant=attempts.moving_constant, **facts),)
