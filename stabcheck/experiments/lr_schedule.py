"""The learning-rate schedule does not do over the planned run what it was written for.

## What it looks at
The whole planned run, without training: the scheduler of a fresh set-up is stepped as often as the run would step it and
every rate is kept (a million steps take seconds). How often that is, is watched in a few calls of your own train_step, where
there is one, and taken from scheduler_interval where not. A schedule that is over too soon or never gets going is compared with
what it would do if it were stepped once per epoch, per optimizer step or per batch, so that the unit it was sized in
can be named. One that waits for a metric is watched in real steps until it cuts the rate, and these are taken again without the
cuts. Constant, cyclic, restarting and one-cycle schedules are no faults, nor are a rate of zero at the first or last step.

## Why it matters
A scheduler only counts how often it is called. Sized in epochs and stepped per batch, it ends the training in the first
minutes; sized in steps and stepped per epoch, it never leaves the warm-up. The loss curve shows neither: it just looks
like a model that learns badly.

## What to do
Write the length once, in the unit in which the scheduler is stepped: optimizer steps = epochs x batches per epoch /
accumulate_steps. Step it right after optimizer.step() (or at the end of the epoch), and look at the plotted curve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.check import Finding, Outcome, Rule, Skip, experiment
from stabcheck.experiments import _lr_schedule_base, _lr_schedule_metric
from stabcheck.experiments._lr_schedule_words import facts_of

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.schedule.forecast import Forecast

OTHER_OPTIMIZER = Rule(
    "SC0501",
    "schedules-another-optimizer",
    "fail",
    "{scheduler} changes the rate of another optimizer ({other}), not of the one that trains ({optimizer}), which stays "
    "at {rate:.3g}",
    "build the scheduler after the optimizer and from the same object: {name}(optimizer, ...)",
    why="The rate of the optimizer that trains never changes, while the log of the scheduler shows that it does.",
)
NEVER_STEPPED = Rule(
    "SC0502",
    "scheduler-never-stepped",
    "fail",
    "scheduler_interval is 'step', but in {train_steps} calls train_step never called scheduler.step(), so the rate stays "
    "at {rate:.3g}",
    "call scheduler.step() right after optimizer.step() in train_step, or give scheduler_interval='epoch' if the loop "
    "around it does",
)
RAISES = Rule(
    "SC0503",
    "scheduler-raises",
    "fail",
    "{scheduler} raises {when}: {error}",
    "{remedy}",
    why="The run ends with an exception hours after its start.",
)
IMPOSSIBLE_RATE = Rule(
    "SC0504",
    "impossible-rate",
    "fail",
    "the learning rate is {rate:.3g} {when}{group}",
    "a rate is finite and not negative: bound what the scheduler returns, as in max(0, ...), and give it the length of the "
    "run ({calls} calls)",
    why="A rate below zero climbs the loss; one that is no number turns all weights into NaN.",
)
WRONG_PACE = Rule(
    "SC0505",
    "schedule-in-the-wrong-unit",
    "fail",
    "{scheduler} is sized in {unit} ({count} in this run), but {caller}, {calls} times in all, {ratio} times too {way}: {symptom}",
    "{remedy}",
)
SPENT_EARLY = Rule(
    "SC0506",
    "rate-spent-early",
    "warn",
    "the learning rate is used up {when}: the whole run after that adds less than a thousandth of what came before "
    "(the last rate is {last:.2g} of the peak)",
    "stretch {scheduler} over the whole run ({calls} calls), or end the run there",
)
CLIMBS_BACK = Rule(
    "SC0507",
    "rate-rises-again",
    "warn",
    "{scheduler} reaches its lowest rate {when} and climbs again, to {again:.0%} of the peak; the run ends at {last:.2g} of it",
    "size it for the run ({calls} calls); if cycles are meant, CosineAnnealingWarmRestarts or CyclicLR says so",
)
NOT_REACHED = Rule(
    "SC0508",
    "peak-never-reached",
    "warn",
    "the run ends in the warm-up: it reaches {last:.3g}, {reached:.0%} of the {target:.3g} that {scheduler} reaches after "
    "{needs} calls; it is called {calls} times, {cadence}",
    "shorten the warm-up to well below {calls} calls, or step the scheduler more often",
)
CUT_SHORT = Rule(
    "SC0509",
    "schedule-longer-than-run",
    "warn",
    "{scheduler} decays over {needs} calls and is called {calls} times, {cadence}: the run ends at {last:.0%} of the peak rate",
    "size it for {calls} calls{resized}, or plan the longer run",
)
CADENCE_CONTRADICTED = Rule(
    "SC0511",
    "stepped-otherwise-than-declared",
    "warn",
    "scheduler_interval is {declared!r}, but train_step calls the scheduler itself, {seen}",
    "{remedy}",
)
OVERWRITTEN = Rule(
    "SC0512",
    "rate-overwritten",
    "warn",
    "{what}: {scheduler} {effect}",
    "let either the scheduler or your own code set the rate; a scheduler starts from the lr that the optimizer was built with",
    why="The schedule that was written down is not the one that is trained with.",
)
GROWS = Rule(
    "SC0513",
    "rate-grows-without-end",
    "warn",
    "the learning rate only grows, from {first:.3g} to {last:.3g} at the end of the run, and {scheduler} {why}",
    "{advice}",
    why="Sooner or later every growing rate is too large, and what was learnt until then is lost.",
)
ALWAYS_ZERO = Rule(
    "SC0514",
    "rate-always-zero",
    "fail",
    "the learning rate{group} is zero at every step of the run: nothing is trained with it",
    "check the lr of the optimizer and the factor of {scheduler}",
    why="With a rate of zero nothing is learnt, while the run looks busy.",
)
NEVER_ACTS = Rule(
    "SC0516",
    "schedule-after-the-run",
    "fail",
    "{scheduler} first changes the rate at call {first}, and the run makes {calls} calls, {cadence}: the "
    "rate stays the same to the end",
    "give its milestones in the unit in which it is called ({cadence}), within {calls} calls",
)
OVERTAKEN = Rule(
    "SC0517",
    "decay-overtakes-warm-up",
    "warn",
    "the rate never exceeds {share:.2g} times the {base:.3g} that the optimizer was given: {scheduler} multiplies a warm-up, "
    "which is not over yet, with a decay, which turns the rate round at {peak:.3g} {when}",
    "end the warm-up early in the run ({calls} calls, {cadence}) and begin the decay where it ends",
)

FADES = Rule(
    "SC0522",
    "cycles-fade-out",
    "warn",
    "the cycles of {scheduler} ({cycle} each) have faded {when}: from there to the end the rate stays at {last:.3g}, {share:.1%} "
    "of the peak ({peak:.3g})",
    "give step_size_up in the calls that are made, {cadence} ({calls} in this run): so many that the cycles get small where the "
    "run ends; gamma, too, counts calls",
    why="Most of the run is trained at the lowest rate, while a cyclic one was meant.",
)

RULE_OF = {
    "other-optimizer": OTHER_OPTIMIZER,
    "never-stepped": NEVER_STEPPED,
    "raises": RAISES,
    "impossible": IMPOSSIBLE_RATE,
    "pace": WRONG_PACE,
    "spent": SPENT_EARLY,
    "climbs": CLIMBS_BACK,
    "not-reached": NOT_REACHED,
    "cut-short": CUT_SHORT,
    "overtaken": OVERTAKEN,
    "overwritten": OVERWRITTEN,
    "reset": OVERWRITTEN,
    "grows": GROWS,
    "fades": FADES,
    "always-zero": ALWAYS_ZERO,
    "never-acts": NEVER_ACTS,
}
"""Which rule a `Fault` of the simulated run breaks."""


@experiment(
    title="Learning-rate schedule over the whole run",
    about=("scheduler", "train_step", "optimizer"),
    rules=tuple(
        sorted(
            {*RULE_OF.values(), *_lr_schedule_base.RULES, *_lr_schedule_metric.RULES, CADENCE_CONTRADICTED},
            key=lambda rule: rule.code,
        )
    ),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Plan the run, judge its rates, and return them for the plot."""
    from stabcheck.trial.schedule.forecasting import forecast_rates

    run = forecast_rates(bench)
    finding = (
        _lr_schedule_base.begun(run)
        or _finding(bench, run)
        or _lr_schedule_base.idle(run)
        or _lr_schedule_base.factor(bench, run)
        or _zero_group(bench, run)
        or _cadence(bench, run)
        or _lr_schedule_metric.judge(bench, run)
    )
    setup = run.session.setup
    if finding is None and setup.scheduler is None and not run.by_hand:
        rates = ", ".join(f"{rate:.3g}" for rate in sorted(set(run.session.learning_rates())))
        built = (
            "; one was built for this optimizer" if any("initial_lr" in g for g in setup.optimizer.param_groups) else ""
        )
        raise Skip(f"no scheduler given{built}: the rate stays at {rates}; if the real run has one, add 'scheduler'")
    names = {rule.code: rule.name.replace("-", " ") for rule in CHECK.rules}
    return Outcome(
        summary=f"{names[finding.code]}; {run.summary()}" if finding else run.summary(),
        findings=(finding,) if finding else (),
        measurements=run.measurements(),
        not_checked=tuple(run.notes),
    )


def _finding(bench: Bench, run: Forecast) -> Finding | None:
    """The fault of the whole curve in words."""
    if run.fault is None:
        return None
    rule = RULE_OF[run.fault.kind]
    facts = facts_of(run)
    # Evidence that goes into a finding's own fields.
    place, severity = facts.pop("place", None), facts.pop("severity", None)
    steps_it = run.observed is not None and run.observed.calls > 0
    if rule is NEVER_STEPPED or run.by_hand or (steps_it and rule in {WRONG_PACE, RAISES, OVERWRITTEN}):
        return rule.at(place, source=bench.source(run.session.setup.train_step), severity=severity, **facts)
    return rule.at(place, severity=severity, **facts)


def _zero_group(bench: Bench, run: Forecast) -> Finding | None:
    """A group that the scheduler, not its lr, keeps at zero; others train."""
    if run.reading.calls is None or run.session.setup.scheduler is None:
        return None
    for index, group in enumerate(run.session.setup.optimizer.param_groups if run.session.setup.optimizer else ()):
        if float(group.get("initial_lr", 0.0)) > 0 and not run.used[:, index].any():
            return ALWAYS_ZERO.at(
                f"group {index}",
                severity="warn",
                group=f" of group {index}",
                scheduler=run.name,
            )
    return None


def _cadence(bench: Bench, run: Forecast) -> Finding | None:
    """train_step steps the scheduler in another rhythm than scheduler_interval says, and the curve does not tell which is meant."""
    declared, seen = run.session.setup.scheduler_interval, run.observed
    if declared is None or seen is None or not seen.calls or run.by_hand or run.reading.unit == "epoch":
        return None
    twice = declared == "step" and run.reading.unit == "other" and run.reading.per_step > 1.5 and not run.ends_with_run
    if declared == "epoch" or twice:
        per_step = f"{run.reading.per_step:.3g} times per optimizer step" if twice else run.cadence
        remedy = (
            "call it in one place only, once per optimizer step"
            if twice
            else ("step it in one place only, and declare that: scheduler_interval='step'")
        )
        return CADENCE_CONTRADICTED.at(
            source=bench.source(run.session.setup.train_step), declared=declared, seen=per_step, remedy=remedy
        )
    return None
