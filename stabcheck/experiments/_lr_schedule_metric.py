"""The part of lr-schedule that judges a scheduler which waits for a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Skip

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.schedule.forecast import Forecast

SECONDS, SHARE = 4.0, 0.1
"""For the steps that show when the rate is cut, and of the remaining budget at most; as much again for those at a held rate."""

IMPATIENT = Rule(
    "SC0515",
    "patience-counts-batches",
    "warn",
    "ReduceLROnPlateau is stepped at every batch, so patience={patience} is {share:.0%} of an epoch and the noise between "
    "batches will cut the rate",
    "step it once per epoch, with the validation metric",
    why="The rate falls to nothing within the first epochs, and the training ends there.",
)
CUT_EARLY = Rule(
    "SC0521",
    "rate-cut-while-learning",
    "fail",
    "ReduceLROnPlateau has cut the rate from {rate:.3g} to {low:.2g} within {at} of {planned} steps, while there was more to learn "
    "at it: after {steps} steps the loss is {own:.3g}, and {held:.3g} on the same batches at the full rate; {how}",
    "{remedy}",
    why="The rate falls to nothing within the first epochs, and the training ends there.",
)
RULES = (IMPATIENT, CUT_EARLY)


def judge(bench: Bench, run: Forecast) -> Finding | None:
    """A rate that was seen to be cut too early, or that is likely to be."""
    from stabcheck.trial.schedule.reductions import cut_while_learning
    from stabcheck.userland import UserCodeError

    if not run.waits_for_metric:
        return None
    bench.tell(0.6, "waiting for the scheduler to cut the rate")
    seconds = max(0.0, min(SECONDS, SHARE * bench.remaining()))
    try:
        cut = cut_while_learning(bench, run.plan.batches, seconds)
    except (UserCodeError, Skip):  # it is a second question; checks that train say what is in the way
        cut = None
    if cut is None:
        return _impatient(run)
    scheduler, turned = run.session.setup.scheduler, cut.turned
    often = cut.at / max(1, cut.calls)
    how = f"it is stepped {'at every batch' if often < 2 else f'once in {often:.0f} steps'} with patience={scheduler.patience}"
    remedy = "step it once per epoch, with the validation metric" if often < 2 else "raise its patience"
    if turned is not None and turned[0] != turned[1] and (turned[1] > turned[0]) == (scheduler.mode == "min"):
        fell, right = ("rose", "max") if scheduler.mode == "min" else ("fell", "min")
        how = (
            f"what it is stepped with {fell} from {turned[0]:.3g} to {turned[1]:.3g}, worse for mode={scheduler.mode!r}"
        )
        remedy = f"give it mode={right!r}, if that is the metric that is meant"
    return CUT_EARLY.at(
        source=bench.source(run.session.setup.train_step), rate=cut.rate, low=cut.low, at=cut.at, planned=run.plan.batches,
        steps=cut.steps, own=cut.own, held=cut.held, how=how, remedy=remedy,
    )  # fmt: skip


def _impatient(run: Forecast) -> Finding | None:
    scheduler, per_epoch = run.session.setup.scheduler, run.session.steps_per_epoch
    patience = getattr(scheduler, "patience", None)
    batchwise = run.reading.unit != "epoch" and not run.pace_assumed
    if patience is None or per_epoch is None or not batchwise or patience + 1 >= per_epoch:
        return None
    return IMPATIENT.at(patience=patience, share=patience / per_epoch)
