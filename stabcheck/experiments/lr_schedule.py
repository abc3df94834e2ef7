"""The learning-rate schedule does not do over the planned run what it was written for.

## What it looks at
The whole planned run, without training: the scheduler of a fresh set-up is stepped as often as the run would step it and
every rate is kept (a million steps take seconds). How often that is, is watched in a few calls of your own train_step, where
there is one, and taken from scheduler_interval where not. A schedule that is over too soon or never gets going is compared with
what it would do if it were stepped once per epoch, per optimizer step or per batch, so that the unit it was sized in
can be named. Constant, cyclic, restarting and one-cycle schedules are no faults, nor are a rate of zero at the first or last step.

## Why it matters
A scheduler only counts how often it is called. Sized in epochs and stepped per batch, it ends the training in the first
minutes; sized in steps and stepped per epoch, it never leaves the warm-up. The loss curve shows neither: it just looks
like a model that learns badly.

## What to do
Write the length once, in the unit in which the scheduler is stepped: optimizer steps = epochs x batches per epoch /
accumulate_steps. Step it right after optimizer.step() (or at the end of the epoch), and look at the plotted curve.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Outcome, Rule, Skip, Source, experiment

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.planned_rates import PlannedRun

OTHER_OPTIMIZER = Rule(
    "SC0501",
    "schedules-another-optimizer",
    "fail",
    message="{scheduler} changes the rate of another optimizer ({other}), not of the one that trains ({optimizer}): that one stays at {rate:.3g}.",
    fix="Build the scheduler after the optimizer and from the same object: {name}(optimizer, ...).",
)
NEVER_STEPPED = Rule(
    "SC0502",
    "scheduler-never-stepped",
    "fail",
    message="scheduler_interval is 'step', but train_step never called scheduler.step() in {train_steps} calls: the rate stays at {rate:.3g}.",
    fix="Call scheduler.step() right after optimizer.step() in train_step, or give scheduler_interval='epoch' if the loop around it does.",
)
RAISES = Rule(
    "SC0503",
    "scheduler-raises",
    "fail",
    message="{scheduler} raises {when}: {error}.",
    fix="{remedy}",
)
IMPOSSIBLE_RATE = Rule(
    "SC0504",
    "impossible-rate",
    "fail",
    message="The learning rate is {rate:.3g} {when}{group}.",
    fix="A rate must be finite and not negative: bound the schedule, as in max(0, ...), or give it the length of the run ({calls} calls).",
)
WRONG_PACE = Rule(
    "SC0505",
    "schedule-in-the-wrong-unit",
    "fail",
    message="{scheduler} is sized in {unit} ({count} in this run), but {caller}, {calls} times in all, which is {ratio} times too {way}: {symptom}.",
    fix="{remedy}",
)
SPENT_EARLY = Rule(
    "SC0506",
    "rate-spent-early",
    "warn",
    message="The learning rate is used up {when}: all of the run after that adds less than a thousandth of what came before "
    "(the last rate is {last:.2g} of the peak).",
    fix="Stretch {scheduler} over the whole run ({calls} calls), or end the run there.",
)
CLIMBS_BACK = Rule(
    "SC0507",
    "rate-rises-again",
    "warn",
    message="{scheduler} reaches its lowest rate {when} and climbs again, to {last:.0%} of the peak at the end of the run.",
    fix="Size it for the run ({calls} calls). If the cycles are meant, CosineAnnealingWarmRestarts or CyclicLR says so.",
)
NOT_REACHED = Rule(
    "SC0508",
    "peak-never-reached",
    "warn",
    message="The run ends during the warm-up: the rate reaches {last:.3g}, {reached:.0%} of the {target:.3g} that {scheduler} reaches after "
    "{needs} calls; the run makes {calls}, {cadence}.",
    fix="Shorten the warm-up to well below {calls} calls, or step the scheduler more often.",
)
CUT_SHORT = Rule(
    "SC0509",
    "schedule-longer-than-run",
    "warn",
    message="{scheduler} decays over {needs} calls and the run makes {calls}, {cadence}: it ends at {last:.0%} of the peak rate.",
    fix="Size the schedule for {calls} calls{resized}, or plan the longer run.",
)
RATE_AS_FACTOR = Rule(
    "SC0510",
    "rate-used-as-factor",
    "fail",
    message="The function of LambdaLR returns a rate ({factor:.3g}), but its result is multiplied with the optimizer's lr "
    "({base:.3g}): the rate never exceeds {peak:.3g}.",
    fix="Return a factor between 0 and 1 (divide by {base:.3g}), or set the optimizer's lr to 1.0.",
)
CADENCE_CONTRADICTED = Rule(
    "SC0511",
    "stepped-otherwise-than-declared",
    "warn",
    message="scheduler_interval is {declared!r}, but train_step calls the scheduler {seen} itself.",
    fix="{remedy}",
)
OVERWRITTEN = Rule(
    "SC0512",
    "rate-overwritten",
    "warn",
    message="{what}: {scheduler} {effect}.",
    fix="Let either the scheduler or your own code set the rate; the scheduler's base rate is the lr that the optimizer is built with.",
)
GROWS = Rule(
    "SC0513",
    "rate-grows-without-end",
    "warn",
    message="The learning rate only grows, from {first:.3g} to {last:.3g} at the end of the run, and {scheduler} has no end to it.",
    fix="A factor below 1 makes the rate decay{hint}; a warm-up needs an end, as LinearLR has.",
)
ALWAYS_ZERO = Rule(
    "SC0514",
    "rate-always-zero",
    "fail",
    message="The learning rate{group} is zero at every step of the run: nothing is trained with it.",
    fix="Check the lr of the optimizer and what {scheduler} multiplies it with.",
)
IMPATIENT = Rule(
    "SC0515",
    "patience-counts-batches",
    "warn",
    message="ReduceLROnPlateau is stepped at every batch, so patience={patience} means {patience} batches, {share:.0%} of an epoch: "
    "the noise between batches will cut the rate.",
    fix="Step it once per epoch with the validation metric.",
)


RULES = (
    OTHER_OPTIMIZER,
    NEVER_STEPPED,
    RAISES,
    IMPOSSIBLE_RATE,
    WRONG_PACE,
    SPENT_EARLY,
    CLIMBS_BACK,
    NOT_REACHED,
    CUT_SHORT,
    RATE_AS_FACTOR,
    CADENCE_CONTRADICTED,
    OVERWRITTEN,
    GROWS,
    ALWAYS_ZERO,
    IMPATIENT,
)


@experiment(title="Learning-rate schedule over the whole run", rules=RULES)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    from stabcheck.trial.planned_run import plan_the_run

    run = plan_the_run(bench)
    finding = (
        _finding(bench, run)
        or _factor(bench, run)
        or _zero_group(bench, run)
        or _cadence(bench, run)
        or _impatient(bench, run)
    )
    setup = run.session.setup
    if finding is None and setup.scheduler is None and not run.by_hand:
        rates = ", ".join(f"{rate:.3g}" for rate in sorted(set(run.session.learning_rates())))
        built = (
            "; one was built for this optimizer" if any("initial_lr" in g for g in setup.optimizer.param_groups) else ""
        )
        raise Skip(f"no scheduler given{built}: the rate stays at {rates}; if the real run has one, add 'scheduler'")
    return Outcome(
        summary=run.summary(),
        findings=(finding,) if finding else (),
        measurements=run.measurements(),
        not_checked=tuple(run.notes),
    )


def _finding(bench: Bench, run: PlannedRun) -> Finding | None:
    """The fault of the whole curve in words."""
    from stabcheck.trial.scheduler_sizes import resized

    if run.fault is None:
        return None
    facts, scheduler = dict(run.fault.facts), run.session.setup.scheduler
    facts |= {
        "scheduler": run.name,
        "calls": run.reading.calls,
        "cadence": run.cadence,
        "rate": facts.get("rate", float(run.used[0].max())),
    }
    if "call" in facts:
        facts["when"] = run.when(facts["call"])
    source = _source(bench, run)
    match run.fault.kind:
        case "other-optimizer":
            return OTHER_OPTIMIZER.at(source=source, name=type(scheduler).__name__, **facts)
        case "never-stepped":
            return NEVER_STEPPED.at(source=bench.source(run.session.setup.train_step), **facts)
        case "raises":
            # A loop that drops the last, incomplete accumulation of each epoch never makes the last calls.
            sure = run.plan.least_steps is None or run.reading.unit == "epoch" or facts["call"] <= run.plan.least_steps
            remedy = _remedy_of_raise(run, facts)
            return RAISES.at(source=source, severity=None if sure else "warn", remedy=remedy, **facts)
        case "impossible":
            group = facts.pop("group", 0)
            many = run.used.shape[1] > 1
            facts |= {"group": f" in group {group}" if many else ""}
            return IMPOSSIBLE_RATE.at(f"group {group}" if many else None, source=source, **facts)
        case "pace":
            return _pace(bench, run, facts)
        case "spent":
            return SPENT_EARLY.at(source=source, severity="fail" if facts["dead"] else "warn", **facts)
        case "climbs":
            # One valley and back to the top is a length that was halved; several may be cycles that are meant.
            wasted = facts["swings"] == 1 and facts["last"] >= 0.5
            return CLIMBS_BACK.at(source=source, severity="fail" if wasted else "warn", **facts)
        case "not-reached":
            facts["reached"] = facts["last"] / facts["target"]
            return NOT_REACHED.at(source=source, severity="fail" if facts["reached"] < 0.5 else "warn", **facts)
        case "cut-short":
            new = resized(scheduler, (run.reading.calls or 1) / facts["needs"])
            return CUT_SHORT.at(source=source, resized=f", as in {new}" if new else "", **facts)
        case "grows":
            gamma = getattr(scheduler, "gamma", None)
            facts["hint"] = f" (gamma is {gamma})" if gamma is not None else ""
            return GROWS.at(source=source, severity="fail" if facts["factor"] >= 10 else "warn", **facts)
        case "always-zero":
            return ALWAYS_ZERO.at(source=source, group="", **facts)
        case "overwritten":
            return OVERWRITTEN.at(
                source=source,
                what=f"The rate stays at {facts.pop('rate'):.3g} in {facts['steps']} calls of train_step",
                effect="is stepped, but its rates are overwritten",
                **facts,
            )
        case "reset":
            return OVERWRITTEN.at(
                source=source,
                what=f"The rate was set to {facts['before']:.3g} after the scheduler was built",
                effect=f"puts it back to {facts['after']:.3g} at its first step",
                **facts,
            )
    return None


def _remedy_of_raise(run: PlannedRun, facts: dict[str, Any]) -> str:
    from stabcheck.trial.scheduler_sizes import resized

    scheduler, calls = run.session.setup.scheduler, run.reading.calls or 1
    known = len(getattr(scheduler, "base_lrs", None) or run.used[0])
    if known != run.used.shape[1]:
        return f"The optimizer has {run.used.shape[1]} parameter groups and the scheduler knows {known}: add groups before it is built."
    new = resized(scheduler, calls / max(1, facts["call"] - 1))
    return f"The run calls the scheduler {calls} times: make it work for that many{f', as with {new}' if new else ''}."


def _source(bench: Bench, run: PlannedRun) -> Source | None:
    """train_step where it steps the scheduler, else the function or class that makes the rates, where it is the user's."""
    setup = run.session.setup
    if run.observed is not None and run.observed.calls:
        return bench.source(setup.train_step)
    functions = getattr(setup.scheduler, "lr_lambdas", None) or [None]
    return bench.source(functions[0]) or bench.source(type(setup.scheduler))


def _pace(bench: Bench, run: PlannedRun, facts: dict[str, Any]) -> Finding:
    from stabcheck.trial.scheduler_sizes import resized

    calls, count = run.reading.calls or 1, facts.pop("count")
    often, ratio = calls > count, max(calls / count, count / calls)
    symptom = facts.pop("symptom")
    last, when, swings = facts.get("last", 0.0), facts.get("when", ""), facts.get("swings", 1)
    words = {
        "raises": f"it raises {when} ({facts.get('error', '')})",
        "impossible": f"the rate is {facts.get('rate', 0.0):.3g} {when}",
        "swings": "the rate goes down and up again" + (f" {swings} times" if swings > 1 else ""),
        "spent": f"the rate is used up {when}",
        "settled": f"all of its decay is over {when}",
        "warming": f"the run ends in its warm-up, at {facts.get('reached', 0.0):.1%} of the peak rate",
        "hardly-decays": f"the rate is still at {100 * last:.3g} % of its peak when the run ends",
    }
    new = resized(run.session.setup.scheduler, calls / count)
    size = f"{calls} calls" + (f": {new}" if new else "")
    unit = facts.pop("unit")
    facts |= {
        "unit": {"epoch": "epochs", "optimizer step": "optimizer steps", "batch": "batches"}[unit],
        "count": round(count),
        "caller": run.caller,
        "ratio": f"{ratio:.0f}" if ratio >= 9.5 else f"{ratio:.2g}",
        "way": "often" if often else "rarely",
        "symptom": words[symptom],
        "remedy": f"Step it once per {unit}, or size it for {size}."
        if unit != "batch"
        else f"A batch is not an optimizer step here (accumulate_steps={run.session.setup.accumulate_steps}): size it for {size}.",
    }
    return WRONG_PACE.at(source=_source(bench, run), severity="warn" if facts.pop("mild", False) else "fail", **facts)


def _factor(bench: Bench, run: PlannedRun) -> Finding | None:
    """A LambdaLR whose function returns the rate itself: its highest factor is the base rate."""
    from stabcheck.trial.pace import parts

    setup = run.session.setup
    if not len(run.used) or run.by_hand:
        return None
    peaks = [float(rate) for rate in run.used.max(axis=0)]
    for part in parts(setup.scheduler) if setup.scheduler is not None else []:
        bases, functions = getattr(part, "base_lrs", None), getattr(part, "lr_lambdas", None)
        if not bases or not functions or len(bases) != len(peaks):
            continue
        pairs = [(float(base), peak / float(base)) for base, peak in zip(bases, peaks, strict=True) if base > 0]
        if pairs and all(base < 0.5 and math.isclose(factor, base, rel_tol=0.01) for base, factor in pairs):
            base, factor = pairs[0]
            return RATE_AS_FACTOR.at(source=bench.source(functions[0]), factor=factor, base=base, peak=factor * base)
    return None


def _zero_group(bench: Bench, run: PlannedRun) -> Finding | None:
    """A group that the scheduler, not its lr, keeps at zero; others train."""
    if run.reading.calls is None or run.session.setup.scheduler is None:
        return None
    for index, group in enumerate(run.session.setup.optimizer.param_groups if run.session.setup.optimizer else ()):
        if float(group.get("initial_lr", 0.0)) > 0 and not run.used[:, index].any():
            return ALWAYS_ZERO.at(
                f"group {index}",
                source=_source(bench, run),
                severity="warn",
                group=f" of group {index}",
                scheduler=run.name,
            )
    return None


def _cadence(bench: Bench, run: PlannedRun) -> Finding | None:
    """train_step steps the scheduler in another rhythm than scheduler_interval says, and the curve does not tell which is meant."""
    declared, seen = run.session.setup.scheduler_interval, run.observed
    if declared is None or seen is None or not seen.calls or run.by_hand or run.reading.unit == "epoch":
        return None
    twice = declared == "step" and run.reading.unit == "other" and run.reading.per_step > 1.5 and not run.ends_with_run
    if declared == "epoch" or twice:
        per_step = f"{run.reading.per_step:.3g} times per optimizer step" if twice else run.cadence
        remedy = (
            "Call it in one place only, once per optimizer step."
            if twice
            else ("Step it in one place only, and declare that: scheduler_interval='step'.")
        )
        return CADENCE_CONTRADICTED.at(
            source=bench.source(run.session.setup.train_step), declared=declared, seen=per_step, remedy=remedy
        )
    return None


def _impatient(bench: Bench, run: PlannedRun) -> Finding | None:
    scheduler, per_epoch = run.session.setup.scheduler, run.session.steps_per_epoch
    patience = getattr(scheduler, "patience", None)
    batchwise = run.reading.unit != "epoch" and not any(note.what.startswith("how often") for note in run.notes)
    if not run.waits_for_metric or patience is None or per_epoch is None or not batchwise or patience + 1 >= per_epoch:
        return None
    return IMPATIENT.at(source=_source(bench, run), patience=patience, share=patience / per_epoch)
