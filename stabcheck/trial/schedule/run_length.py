"""How long the planned run is, and how often it calls the scheduler: as declared, or as train_step was seen to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim.lr_scheduler import ReduceLROnPlateau

from stabcheck.setup import TrainingSetup
from stabcheck.trial.schedule.cadence import Observed
from stabcheck.trial.session import Session


@dataclass(frozen=True)
class Plan:
    """The length of the planned run in its three units; None where it is not known."""

    steps: int | None
    """Optimizer steps."""
    epochs: float | None
    batches: int | None
    """Calls of train_step, or batches of the textbook loop."""
    steps_per_epoch: float | None
    least_steps: int | None
    """The same as `steps` if a loop drops what is left of an accumulation at the end of an epoch."""


def plan_of(session: Session, observed: Observed | None) -> Plan:
    """The planned run of a set-up, from max_steps or max_epochs, the loader's length and the accumulation seen."""
    setup, per_epoch = session.setup, session.steps_per_epoch
    share = _share(setup, observed)
    steps_per_epoch = per_epoch * share if per_epoch else None
    epochs: float | None = setup.max_epochs
    steps, least = setup.max_steps, setup.max_steps
    if steps is None and steps_per_epoch and per_epoch and epochs:
        whole = max(1, math.ceil(steps_per_epoch))
        steps, least = int(epochs * whole), int(epochs * max(1, math.floor(steps_per_epoch)))
        if setup.train_step is not None:  # its own count of micro-batches goes on from epoch to epoch
            steps = max(1, math.floor(epochs * steps_per_epoch))
            least = min(least, steps)
    elif steps is not None and steps_per_epoch:
        epochs = steps / steps_per_epoch
    batches = round(steps / share) if steps is not None else None
    return Plan(steps, epochs, batches, steps_per_epoch, least)


def _share(setup: TrainingSetup, observed: Observed | None) -> float:
    """Optimizer steps per batch."""
    declared = 1 / setup.accumulate_steps
    if observed is None or not observed.optimizer_steps:
        return declared
    if abs(observed.optimizer_steps - observed.train_steps * declared) < 1:
        return declared
    return observed.per_train_step


@dataclass(frozen=True)
class Reading:
    """One way in which the real run may step the scheduler."""

    unit: str
    """It is called once per "epoch", "optimizer step" or "batch"; "other" if it follows none of them."""
    calls: int | None
    """Calls in the planned run; None if its length is not known."""
    steps_per_call: float | None
    """Optimizer steps between two calls."""
    per_step: float = 1.0
    """Calls per optimizer step, as far as they are made inside a step."""


def readings(session: Session, observed: Observed | None, plan: Plan) -> list[Reading]:
    """How the scheduler is stepped: as it was seen, else as declared. More than one if neither is known."""
    per_epoch = session.steps_per_epoch
    epochs = Reading("epoch", math.ceil(plan.epochs) if plan.epochs else None, plan.steps_per_epoch, 0.0)
    steps = Reading("optimizer step", plan.steps, 1.0)
    if observed is None or not observed.calls:
        declared = session.setup.scheduler_interval
        if declared is None and isinstance(session.setup.scheduler, ReduceLROnPlateau):
            return [epochs]
        # A whole step of the user's that leaves the scheduler alone leaves it to the loop around it.
        return {"epoch": [epochs], "step": [steps]}.get(
            declared or "", [steps, epochs] if observed is None else [epochs, steps]
        )
    share = _share(session.setup, observed)
    if abs(observed.calls - observed.train_steps * share) < 1:
        return [steps]
    if per_epoch and per_epoch > 1 and abs(observed.calls - observed.train_steps / per_epoch) < 1:
        return [epochs]
    per_step = observed.calls / observed.train_steps / share
    calls = round(plan.steps * per_step) if plan.steps is not None else None
    return [Reading("batch" if observed.calls == observed.train_steps else "other", calls, 1 / per_step, per_step)]


def plans_of(session: Session, observed: Observed | None) -> list[Plan]:
    """The planned run; two of them where max_steps may count train_steps as well as steps of this optimizer.

    That is so where a train_step makes more or fewer optimizer steps than accumulate_steps says, as with a
    critic that is trained five times for each step of the generator.
    """
    plan, setup = plan_of(session, observed), session.setup
    share = _share(setup, observed)
    if setup.max_steps is None or share in {1.0, 1 / setup.accumulate_steps}:
        return [plan]
    steps = max(1, round(setup.max_steps * share))
    epochs = setup.max_steps / session.steps_per_epoch if session.steps_per_epoch else plan.epochs
    return [plan, Plan(steps, epochs, setup.max_steps, plan.steps_per_epoch, steps)]
