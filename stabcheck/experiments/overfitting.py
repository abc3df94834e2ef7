"""What can be said of overfitting before the run: how much there is to memorise, and how much the validation can tell.

## What it looks at
The number of samples in one pass over both loaders, of target numbers and of trained parameters: parameters per target is a
measurement, not a verdict, since large networks do generalise. And the size of the validation set: with n independent samples an
accuracy is known to about ±0.98/√n (95 %), so 30 samples give ±18 %, 1,000 give ±3 %. It is a finding only if the set is tiny
beside a large training set, or if the loader leaves samples out of every pass.

Where training is given far fewer samples than validation, or shows so few of them so often that the model can learn them by
heart, the planned run is rehearsed for a moment, and both losses are followed on the same samples in eval mode. So it is where
the nearest training samples tell the validation targets: what they know the model should come to know.

## Why it matters
Early stopping, learning-rate plateaus and the choice among runs all follow the validation metric. On a dozen samples they follow
chance: of ten equally good models the luckiest then looks some 40 points better than the unluckiest. And a model that has its
samples by heart learns nothing more from them, however long it goes on.

## What to do
Put more of the data into the validation set, or cross-validate. drop_last belongs to the training loader only. Look for a
slice that was left over from debugging. Plot both losses, and stop where the validation loss turns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Outcome, Rule, Skip, experiment
from stabcheck.reading import LATER

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.memorising import Course
    from stabcheck.trial.sample_count import SampleCount
    from stabcheck.trial.session import Session

FEWEST = 16
"""Validation samples: ±25 % of accuracy, so that two models of 60 % and 90 % can hardly be told apart."""
LARGE_TRAINING = 20
"""Times the validation samples: a training set as large as that has some to give."""
MOST_DROPPED = 0.25
"""Share of the validation samples that no pass ever shows."""

TINY = Rule(
    "SC1401",
    "tiny-validation-set",
    "warn",
    message="the validation set has {count} samples, the training set {train}: an accuracy measured on them is known to "
    "±{width:.0%} only, so the choice of a model or of the moment to stop is left to chance",
    fix="validate on a tenth of the data (about {tenth} samples), or cross-validate",
)
DROPPED = Rule(
    "SC1402",
    "validation-drops-samples",
    "warn",
    message="val_loader has drop_last=True and yields {count:,} of its {held:,} samples: {share:.0%} are left out of "
    "every validation",
    fix="set drop_last=False in val_loader",
    why="What is left out is scored by nobody: the metric describes another set than the one you chose.",
)
FEW = Rule(
    "SC1403",
    "training-set-learnt-by-heart",
    "warn",
    message="training is given {train} samples and validation {val}, and the model has {parameters:,} trained parameters: "
    "after {steps} of {planned:,} steps the loss is {low:.3g} on training samples and {high:.3g} on validation samples",
    fix="look for a slice or a limit left over from debugging, or for splits that changed places; if there are no more "
    "samples, take a smaller model, augment, or stop early",
)
TURNS = Rule(
    "SC1404",
    "validation-loss-turns",
    "warn",
    message="the planned {epochs:.0f} epochs overfit: the validation loss is lowest at step {best} ({lowest:.3g}) and has risen to "
    "{high:.3g} by step {steps} of {planned:,}, above that of the untrained model ({first:.3g}), while the training loss fell "
    "on, from {then:.3g} to {low:.3g}",
    fix="stop where the validation loss is lowest, and keep that checkpoint; or plan fewer epochs, more data, a smaller model",
)
STRANGE = Rule(
    "SC1405",
    "nothing-learnt-transfers",
    "fail",
    message="the model learns its training samples and nothing that holds for others: after {steps} of {planned:,} steps it has "
    "come {share:.0%} of the way from one guess for all ({constant:.3g}) to a perfect fit on training samples ({low:.3g}), and on "
    "validation samples never below {least:.3g} (one guess: {val_constant:.3g}), although the {neighbours} nearest training "
    "samples tell {known:.0%} of what differs between validation targets",
    fix="look for what makes neighbours look unlike each other to the model: frequencies or scales that are far too high for the "
    "inputs, a row number or another name of the sample among them, a hash",
    why="What is learnt is the samples themselves: more training makes it no better.",
)
KNOWN = 0.5
"""Share of the variance of validation targets that the nearest training samples must tell."""
LEARNT, TRANSFERRED = 0.5, 0.1
"""Share of the way that training samples must come, and validation samples must not, of what neighbours tell: healthy set-ups go
both ways together."""
OUTNUMBERED = 5
"""Times the training samples that validation has: nobody splits so, even where labels are few."""
BY_HEART = 0.25
"""Share of the validation loss that is left on training samples the model knows by heart. Measured on 20 to 40 samples: 0.004 to
0.1; on healthy sets, trained to their end, 0.3 to 1."""
GAP = 0.1
"""Part of the untrained model's validation loss that must lie between the two."""
MANY_EPOCHS, ROOM = 50, 2.0
"""Passes over the same samples, and parameters per target, from which on they may be learnt by heart: then it is tried."""
RISEN = 1.5
"""Times its lowest value that the validation loss ends at: half as much again is no noise of some batches."""
SECONDS = 1.5
"""Time for the rehearsal."""


@experiment(title="Overfitting", about=("val_loader",), rules=(TINY, DROPPED, FEW, TURNS, STRANGE), cost="dear")
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Count samples, targets and parameters."""
    session = bench.shared()
    if session.setup.val_loader is None:
        raise Skip("no val_loader given: add 'val_loader' to the set-up; without one overfitting goes unnoticed")
    train, val, targets, many = _counts(session)
    width = 0.98 / math.sqrt(val.samples) if val.samples else math.inf
    trained = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    measured: dict[str, Any] = {
        "training_samples": train.samples,
        "validation_samples": val.samples,
        "counted_to_the_end": train.exact and val.exact,
        "accuracy_half_width_95": width if math.isfinite(width) and not many else None,
        "trained_parameters": trained,
        "training_targets": targets,
        "parameters_per_target": trained / targets if targets else None,
    }
    finding = _judge(train, val, many=many, width=width)
    followed = None if finding else _followed(bench, train, val, trained / (targets or train.samples or 1))
    if followed is not None:
        finding = _by_heart(bench, followed, train, val, trained)
        measured["rehearsed"] = {
            "steps": followed.steps,
            "training_loss": followed.train,
            "validation_loss": followed.val,
        }
    if finding is None and val.samples >= FEWEST:
        finding = _strange(bench, followed, measured)
    more = "" if val.exact else " or more"
    summary = f"{val.samples}{more} validation samples beside {train.samples} for training"
    if targets:
        summary += f"; {trained / targets:.2g} trained parameters per target"
    outcome = Outcome(finding.message if finding else summary, (finding,) if finding else (), measured)
    return outcome if followed is not None and followed.whole else outcome.but_not(LATER.what, LATER.why)


def _counts(session: Session) -> tuple[SampleCount, SampleCount, int | None, bool]:
    """(training samples, validation samples, numbers among the training targets, whether a sample may hold many of them)."""
    from stabcheck.trial.sample_count import SampleCount, count_samples
    from stabcheck.trial.split.one_graph import chosen

    if (one_graph := chosen(session)) is not None:
        # The loss is that of the chosen nodes: there is one graph, but that is not the number of samples.
        train, val = (SampleCount(len(rows), len(rows), exact=True) for rows in (one_graph.train, one_graph.val))
        return train, val, train.samples, False
    train, val = count_samples(session, "train_loader"), count_samples(session, "val_loader")
    targets, many = _targets(session, train)
    return train, val, targets if train.exact else None, many


def _judge(train: SampleCount, val: SampleCount, *, many: bool, width: float) -> Finding | None:
    if val.held and val.held - val.samples >= MOST_DROPPED * val.held:
        share = 1 - val.samples / val.held
        return DROPPED.at(None, count=val.samples, held=val.held, share=share)
    if many or not val.exact or not 0 < val.samples < FEWEST or train.samples < LARGE_TRAINING * val.samples:
        return None
    tenth = round((train.samples + val.samples) / 10)
    return TINY.at(None, count=val.samples, train=train.samples, width=width, tenth=tenth)


def _followed(bench: Bench, train: SampleCount, val: SampleCount, room: float) -> Course | None:
    """The beginning of the planned run, where it could overfit."""
    from stabcheck.trial.memorising import course, planned_epochs
    from stabcheck.trial.pace import Pace

    often = planned_epochs(bench.shared()) >= MANY_EPOCHS and room >= ROOM
    if not train.exact or val.samples < FEWEST or not (often or _outnumbered(train, val)):
        return None
    return course(bench, Pace.on(bench, SECONDS))


def _outnumbered(train: SampleCount, val: SampleCount) -> bool:
    return 1 < train.samples * OUTNUMBERED <= val.samples


def _by_heart(bench: Bench, seen: Course, train: SampleCount, val: SampleCount, parameters: int) -> Finding | None:
    from stabcheck.trial.memorising import planned_epochs

    session, best = bench.shared(), seen.lowest
    first, low, high = seen.val[0], seen.train[-1], seen.val[-1]
    facts: dict[str, Any] = {"steps": seen.steps[-1], "planned": seen.planned, "low": low, "high": high}
    if not 0 <= low < BY_HEART * high or not high - low >= GAP * first > 0:
        return None
    if _outnumbered(train, val):
        return FEW.at(None, train=train.samples, val=val.samples, parameters=parameters, **facts)
    turned = seen.val[-1] >= RISEN * seen.val[best] > 0 and seen.val[-2] > seen.val[best]
    if turned and high > first > seen.val[best] and low < seen.train[best]:
        more: dict[str, Any] = {
            "best": seen.steps[best],
            "lowest": seen.val[best],
            "first": first,
            "then": seen.train[best],
        }
        return TURNS.at(None, epochs=planned_epochs(session), **more, **facts)
    return None


def _strange(bench: Bench, followed: Course | None, measured: dict[str, Any]) -> Finding | None:
    """Whether training is learnt and validation is not, where the nearest samples would tell it."""
    from stabcheck.trial.data.short_training import scale_of
    from stabcheck.trial.memorising import course, sides_of
    from stabcheck.trial.neighbourhood import NEIGHBOURS, known_by_neighbours
    from stabcheck.trial.pace import Pace

    session = bench.shared()
    known = known_by_neighbours(session, bench.seed) if session.can_step and session.planned_steps else None
    if known is None or known < KNOWN:
        return None
    measured["known_by_neighbours"] = known
    mine, other = (scale_of(session, given, bench.seed) for given in sides_of(session))
    if mine is None or other is None:
        return None

    def is_told(low: float, high: float) -> bool:
        return other.share(high) > TRANSFERRED * known

    seen = followed or course(bench, Pace.on(bench, SECONDS), until=is_told)
    if seen is None or mine.share(seen.train[-1]) < LEARNT or is_told(0.0, min(seen.val)):
        return None
    facts: dict[str, Any] = {"low": seen.train[-1], "least": min(seen.val), "share": mine.share(seen.train[-1])}
    facts |= {"constant": mine.constant, "val_constant": other.constant, "known": known, "neighbours": NEIGHBOURS}
    return STRANGE.at(None, steps=seen.steps[-1], planned=seen.planned, **facts)


def _targets(session: Session, train: SampleCount) -> tuple[int | None, bool]:
    """(numbers among the targets of one training pass, whether a sample may hold many of them); unknown without a loss_fn,
    and then it may."""
    from stabcheck.trial import batches

    batch: Any = session.first_batch()
    if session.setup.loss_fn is None or not isinstance(batch, (list, tuple)) or len(batch) != 2:
        return None, True
    count, size = sum(t.numel() for t in batches.tensors(batch[1])), batches.size(batch)
    return (round(count / size * train.samples), count > size) if count else (None, True)
