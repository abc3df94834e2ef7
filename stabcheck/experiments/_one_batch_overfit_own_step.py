"""The part of one-batch-overfit that asks whether the user's own step fits the batch that can be fitted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Rule

if TYPE_CHECKING:
    from stabcheck.trial.overfit.attempts import Attempts
    from stabcheck.trial.overfit.own import OwnFit, OwnStep

TOO_SLOW = 2.0
"""Times the planned steps that fitting one batch would take at the pace measured: such a run cannot even memorise a single
batch. 79 healthy set-ups stay below 0.4; a tiny rate meant for fine-tuning does too."""
DOWNWARDS = (0.1, 0.01, 0.001)

UNREACHED = Rule(
    "SC0107",
    "optimizer-misses-model",
    "fail",
    "stabcheck's Adam fits one batch, but {steps} of your own steps change no weight of the model: {why}",
    "build the optimizer from the parameters of this very model, after the last module was added or replaced and after "
    ".to(device), and call optimizer.step() on it after backward()",
)
RATE_TOO_HIGH = Rule(
    "SC0108",
    "rate-too-high-for-one-batch",
    "fail",
    "your optimizer at learning rate {rate:.3g} does not fit one batch (loss {final:.3g}, best constant guess {constant:.3g}); at "
    "{better:.3g} it does",
    "lower the learning rate to about {better:.3g}",
)
RATE_TOO_LOW = Rule(
    "SC0109",
    "rate-too-low-for-one-batch",
    "fail",
    "your optimizer at learning rate {rate:.3g} moves the loss on one batch by only {gain:.2g} of the way in {steps} "
    "steps; at this pace fitting it takes {needed:.1e} steps, and {planned} are planned; at {better:.3g} it fits in {better_steps}",
    "raise the learning rate to about {better:.3g}",
)
OWN_STEP = Rule(
    "SC0110",
    "own-step-does-not-fit",
    "fail",
    "stabcheck's Adam fits one batch (loss {still:.3g}), but your own step does not at any rate tried ({rates}): the loss is "
    "{final:.3g} after {steps} steps (best constant guess {constant:.3g})",
    "look at the order zero_grad, backward, step in your step, at parameters that the optimizer does not hold{missing}, at weight "
    "decay and clipping",
)
MIXED = Rule(
    "SC0112",
    "step-pairs-other-samples",
    "fail",
    "your own step fits what it makes of one batch (loss {own:.3g}), but the set-up's loss on that very batch does not fall "
    "with it ({ours:.3g}, best constant guess {constant:.3g}): the step pairs inputs with the targets of other samples; with one "
    "sample repeated in each batch it learns to tell two of them apart ({calls} calls, {apart:.0%} of the way); with both in "
    "one batch it does not ({together:.0%})",
    "look in your step for what reorders inputs or targets alone (randperm, flip, roll, sort, a reshape over the batch axis), "
    "and use one index for both",
)
RULES = (UNREACHED, RATE_TOO_HIGH, RATE_TOO_LOW, OWN_STEP, MIXED)


def does(own: OwnStep, attempts: Attempts | None, limit: float, not_checked: list[NotChecked]) -> tuple[Finding, ...]:
    """Fit with the user's own step at the planned peak rate; if it does not, find out at which rate it would."""
    fit = own.fit(1.0, limit)
    if fit is None:
        not_checked.append(NotChecked("one batch with your own optimizer", own.why_not))
        return ()
    if fit.fits(limit):
        return _mixed(own, fit)
    still = attempts.still_loss if attempts else math.nan
    facts: dict[str, Any] = {
        "rate": fit.rate, "steps": len(fit.losses), "final": fit.final, "constant": fit.constant, "still": still,
        "gain": max(fit.gain, 0.0), "planned": own.planned,
    }  # fmt: skip
    if not fit.moved:
        return (UNREACHED.at(None, source=own.source, why=own.why_unmoved(), **facts),)
    if own.optimizers > 1:
        # Those of a GAN work against each other.
        why = f"it steps {own.optimizers} optimizers, so the loss that it returns need not fall"
        not_checked.append(NotChecked("whether your own step fits one batch", why))
        return ()
    is_slow = fit.is_falling and not fit.went_up
    needed = fit.steps_to(limit)
    if is_slow and needed <= TOO_SLOW * (own.planned or math.inf):
        return ()
    tried = [fit.rate]
    for factor in _upwards(fit.gain) if is_slow else DOWNWARDS:
        other = own.fit(factor, limit)
        if other is None:
            break
        tried.append(other.rate)
        if not other.fits(limit):
            continue
        facts["better"] = other.rate
        if not is_slow:
            return (RATE_TOO_HIGH.at(None, source=own.source, **facts),)
        return (RATE_TOO_LOW.at(None, source=own.source, needed=needed, better_steps=len(other.losses), **facts),)
    if attempts is None:
        why = "the loss is known only inside train_step, so stabcheck's own optimizer could not try"
        not_checked.append(NotChecked("whose fault it is that your step does not fit one batch", why))
        return ()
    rates = ", ".join(f"{r:.1e}" for r in sorted(tried))
    return (OWN_STEP.at(None, source=own.source, rates=rates, missing=own.missing_parameters(), **facts),)


def _upwards(gain: float) -> tuple[float, ...]:
    """Factors to try on a rate that is too low, from the one that the pace so far asks for."""
    first = 10.0 ** max(1, round(math.log10(0.5 / max(gain, 1e-9))))
    return first, first * 10, first / 10, first * 100


def _mixed(own: OwnStep, fit: OwnFit) -> tuple[Finding, ...]:
    """Whether what the step has fitted is the batch that it was given."""
    from stabcheck.trial.overfit.mixed import mixed

    found = mixed(own)
    if found is None:
        return ()
    facts: dict[str, Any] = {"own": fit.final, "constant": fit.constant, "ours": found.loss, "calls": found.calls}
    return (MIXED.at(None, source=own.source, apart=found.apart, together=found.together, **facts),)
