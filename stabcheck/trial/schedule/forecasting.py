"""The learning rates of the whole planned run: who sets them, how often, and what is wrong with them."""

from __future__ import annotations

import numpy as np
import torch

from stabcheck.check import NotChecked, Skip
from stabcheck.trial.bench import Bench
from stabcheck.trial.schedule.cadence import CallForm, Observed, call_form, follow, observe, same_groups
from stabcheck.trial.schedule.fault import Fault
from stabcheck.trial.schedule.forecast import Forecast
from stabcheck.trial.schedule.pace import ends_at
from stabcheck.trial.schedule.run_length import Plan, Reading, plan_of, plans_of, readings
from stabcheck.trial.schedule.simulation import Curve, Schedule
from stabcheck.trial.schedule.verdict import judge, judge_rates
from stabcheck.trial.session import Session

SECONDS = 8.0
"""For stepping the scheduler: 3 to 6 million calls with one parameter group. What does not fit is sampled or cut, and said."""
SHARE = 0.2
"""Of the remaining budget at most."""
STRETCH_EPOCHS, STRETCH_STEPS = 100, 1000
"""Calls that are shown when the length of the run is not known."""
LOOKED_ON = 40
"""train_steps that are watched for a call of the scheduler."""


def forecast_rates(bench: Bench) -> Forecast:
    """Watch a few of the user's own steps, if there are such, and then step the scheduler through the planned run.

    Raises:
        Skip: there is nothing that could change the rate, or no rate to read.
        UserCodeError: the set-up, the loader or the user's step raised.
    """
    shared = bench.shared()
    setup = shared.setup
    optimizer = setup.optimizer if setup.optimizer is not None else getattr(setup.scheduler, "optimizer", None)
    if optimizer is None:
        missing = "'optimizer'" if setup.scheduler is not None else "'optimizer' and 'scheduler'"
        raise Skip(f"no optimizer given, so there is no learning rate to read: add {missing} to the set-up")
    if any(group.get("lr") is None for group in optimizer.param_groups):
        raise Skip("the optimizer has no lr of its own (lr=None): it makes its rate itself")
    observed = None
    own_optimizer = setup.scheduler is None and not isinstance(optimizer, torch.optim.Optimizer)
    if setup.train_step is not None or own_optimizer:
        bench.tell(0.1, "watching train_step")
        rare = setup.scheduler is None or setup.scheduler_interval == "epoch"
        most = max(2 * setup.accumulate_steps, 8 if rare else LOOKED_ON)
        observed = observe(bench.session(), most=most, seconds=_seconds(bench, 5.0))
    if setup.scheduler is None:
        if observed is None or not observed.rates_changed:
            return _constant(shared, observed)
        return _followed(bench, observed)
    run = _simulated(bench, observed)
    if run is not None:
        return run
    assert observed is not None
    return _followed(bench, observed)


def _seconds(bench: Bench, most: float) -> float:
    return max(0.0, min(most, SHARE * bench.remaining()))


def _constant(session: Session, observed: Observed | None) -> Forecast:
    plan = plan_of(session, observed)
    steps = plan.steps or STRETCH_STEPS
    rates = np.array([session.learning_rates()] * 2)
    curve = Curve(rates, steps, steps, None, "")
    fault = judge_rates(rates, whole=False)
    return Forecast(session, plan, Reading("optimizer step", None, 1.0), curve, observed, fault)


def _simulated(bench: Bench, observed: Observed | None) -> Forecast | None:
    """The scheduler stepped through the run; None if it is not alone in setting the rate."""
    session = bench.session()
    scheduler, optimizer = session.setup.scheduler, session.setup.optimizer
    bound = getattr(scheduler, "optimizer", None)
    begun_at = 0 if getattr(optimizer, "state", None) else int(getattr(scheduler, "last_epoch", 0))
    apart = hasattr(bound, "param_groups") and optimizer is not None and not same_groups(bound, optimizer)
    if apart and (observed is None or observed.optimizer_steps):
        run = _constant(session, observed)
        run.fault = Fault("other-optimizer", {"other": type(bound).__name__, "optimizer": type(optimizer).__name__})
        return run
    plans = plans_of(session, observed)
    ways = [(plan, way) for plan in plans for way in readings(session, observed, plan)]
    form: CallForm | None = call_form(scheduler, "epoch" if ways[0][1].unit == "epoch" else "step")
    if observed is not None and observed.calls and ways[0][1].unit != "epoch":
        form = observed.form(scheduler)
    if form is None:
        return None
    schedule = Schedule(scheduler, bound if apart or optimizer is None else optimizer, form, _seconds(bench, SECONDS))
    if observed is not None and not form.metric and not apart:
        other = _other_hand(schedule, observed)
        if other is not None:
            plan, way = ways[0]
            run = Forecast(session, plan, way, schedule.curve(observed.calls), observed, other)
            return run if other.kind == "overwritten" else None
    bench.tell(0.4, "stepping the scheduler through the planned run")
    run = _judged(session, schedule, ways, observed)
    run.begun_at = begun_at
    if apart:
        run.notes.append(
            NotChecked("'optimizer'", "train_step does not step it: the scheduler's own optimizer was looked at")
        )
    return run


def _judged(
    session: Session, schedule: Schedule, ways: list[tuple[Plan, Reading]], observed: Observed | None
) -> Forecast:
    """The run in the reading that makes sense, if the set-up allows more than one."""
    faults = [_judge(schedule, plan, way) for plan, way in ways]
    best = min(range(len(ways)), key=lambda i: (faults[i] is not None, not _ends_with_run(schedule, ways[i][1])))
    (plan, way), fault = ways[best], faults[best]
    if fault is not None and len(ways) > 1 and any(other is not None and other.kind == "pace" for other in faults):
        fault = None
    stretch = STRETCH_EPOCHS if way.unit == "epoch" else STRETCH_STEPS
    curve = schedule.curve(way.calls if way.calls is not None else stretch)
    run = Forecast(session, plan, way, curve, observed, fault, _notes(curve, way, schedule.form))
    run.waits_for_metric = schedule.form.metric
    run.ends_with_run = _ends_with_run(schedule, way)
    interval, seen = session.setup.scheduler_interval, observed is not None and observed.calls > 0
    run.pace_assumed = interval is None and not seen
    if run.pace_assumed:
        why = f"scheduler_interval is not given; once per {way.unit} is assumed, nothing concluded: add 'scheduler_interval'"
        run.notes.append(NotChecked("how often the scheduler is stepped", why))
    elif interval == "step" and observed is not None and not seen and not schedule.form.metric:
        _note_never_stepped(run, observed)
    run.fault = run.fault or _reset_at_first_step(schedule)
    return run


def _ends_with_run(schedule: Schedule, way: Reading) -> bool:
    return way.calls is not None and ends_at(schedule, way.calls)


def _note_never_stepped(run: Forecast, observed: Observed) -> None:
    if not np.ptp(run.used, axis=0).any():
        return  # it would change nothing
    if observed.train_steps >= max(LOOKED_ON, 2 * run.session.setup.accumulate_steps):
        run.fault = Fault("never-stepped", {"train_steps": observed.train_steps})
    else:
        why = f"only {observed.train_steps} calls of it fit the time, and none stepped the scheduler"
        run.notes.append(NotChecked("whether train_step steps the scheduler", why))


def _judge(schedule: Schedule, plan: Plan, way: Reading) -> Fault | None:
    if way.calls is None:
        start = schedule.curve(1)
        if start.raised_at is not None:
            return Fault("raises", {"call": 1, "error": start.error})
        return judge_rates(start.rates, whole=False)
    if schedule.form.metric:
        return judge_rates(schedule.curve(way.calls).rates[: way.calls], whole=True)
    units = {"epoch": plan.epochs, "optimizer step": plan.steps}
    if plan.batches != plan.steps:
        units["batch"] = plan.batches
    return judge(schedule, way.calls, {unit: float(count) for unit, count in units.items() if count})


def _other_hand(schedule: Schedule, observed: Observed) -> Fault | None:
    """Whether the rates that were seen are not those of the scheduler alone."""
    planned = schedule.curve(observed.calls).rates
    seen = [(calls, rates) for calls, rates in observed.trace if calls < len(planned)]
    if all(np.allclose(planned[calls], rates, rtol=1e-10, atol=0) for calls, rates in seen):
        return None
    moves = bool(np.ptp(planned, axis=0).max() > 0)
    if observed.calls and moves and not observed.rates_changed:
        return Fault("overwritten", {"rate": observed.trace[0][1][0], "steps": observed.train_steps})
    return Fault("by-hand")


def _reset_at_first_step(schedule: Schedule) -> Fault | None:
    """Whether the rate was set after the scheduler was built, and the first call puts the scheduler's own back."""
    rates = schedule.curve(1).rates
    known = schedule.built_with
    if known is None or len(known) != rates.shape[1] or len(rates) < 2:
        return None
    for before, built, after in zip(rates[0], known, rates[1], strict=True):
        if abs(before - built) > 0.1 * max(before, built) and abs(after - built) < 0.1 * abs(before - built):
            return Fault("reset", {"before": float(before), "after": float(after)})
    return None


def _notes(curve: Curve, way: Reading, form: CallForm) -> list[NotChecked]:
    notes = []
    if way.calls is None:
        keys = "'max_steps'" if way.unit != "epoch" else "'max_epochs'"
        notes.append(
            NotChecked(
                "whether the schedule fits the run",
                f"the planned length is not known, so {curve.calls} calls are shown: add {keys} to the set-up",
            )
        )
    if form.metric:
        notes.append(
            NotChecked(
                "when the rate is reduced",
                "it depends on a metric of the real run; here the metric improves at every call",
            )
        )
    if not curve.complete:
        notes.append(
            NotChecked(
                "the end of the schedule",
                f"{curve.asked} calls do not fit the time: the first {curve.calls} were made; raise --budget",
            )
        )
    elif curve.stride > 1:
        notes.append(
            NotChecked(
                "every single rate", f"{curve.asked} calls do not fit the time: one in {curve.stride} was looked at"
            )
        )
    return notes


def _followed(bench: Bench, observed: Observed) -> Forecast:
    """The rates of real training steps, for as many as fit."""
    session = bench.session()
    plan = plan_of(session, observed)
    wanted = plan.batches or STRETCH_STEPS
    bench.tell(0.4, "following the rate through real training steps")
    # A scheduler that is stepped between epochs is not stepped here, so the second epoch would be another one.
    epochwise = session.setup.scheduler is not None and not observed.calls
    reach = min(wanted, session.steps_per_epoch or wanted) if epochwise else wanted
    done, seen = follow(session, reach, _seconds(bench, SECONDS))
    rates = np.array(seen or [session.learning_rates()])
    whole = plan.batches is not None and done >= plan.batches
    stretch = max(1.0, plan.steps / plan.batches) if plan.steps and plan.batches else 1.0
    way = Reading("optimizer step", len(rates) if whole else None, stretch)
    run = Forecast(session, plan, way, Curve(rates, 1, len(rates), None, ""), observed, by_hand=True)
    run.fault = judge_rates(rates, whole)
    if not whole:
        how = f"so it can only be seen by training: {done} of {plan.batches or 'an unknown number of'} steps were made"
        add = "" if session.setup.scheduler is not None else "; add 'scheduler' if there is one"
        run.notes.append(
            NotChecked(
                "the rate of the whole run", f"something else than the set-up's scheduler changes it, {how}{add}"
            )
        )
    return run
