"""How often a scheduler is stepped: as a textbook loop would, or as the user's own train_step was seen to do."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, passed_on

METHODS = ("step", "step_update")
"""What a scheduler is driven by; `step_update` is timm's, once per optimizer step."""


@dataclass(frozen=True)
class CallForm:
    """How the scheduler is called. The c-th call (from 1) gets `start + (c - 1) * increment`, if it takes an argument."""

    method: str = "step"
    start: float | None = None
    increment: float = 0
    metric: bool = False
    """The argument is a validation metric, which no simulation can know."""

    def arguments(self, call: int) -> tuple[float, ...]:
        """The positional arguments of the `call`-th call."""
        return () if self.start is None else (self.start + (call - 1) * self.increment,)


def call_form(scheduler: Any, interval: str) -> CallForm:
    """How a loop that steps the scheduler once per `interval` calls it, from its class and its signature."""
    if isinstance(scheduler, ReduceLROnPlateau):
        return CallForm(metric=True)
    if interval == "step" and callable(getattr(scheduler, "step_update", None)):
        return CallForm("step_update", 1, 1)
    try:
        parameters = list(inspect.signature(scheduler.step).parameters.values())
    except (TypeError, ValueError):  # no signature, as for a callable written in C
        return CallForm()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind in kinds]
    if not required:
        return CallForm()
    counts = any(word in required[0].lower() for word in ("epoch", "step", "iter", "update", "count"))
    return CallForm("step", 1, 1) if counts or required[0] in {"t", "i", "n"} else CallForm(metric=True)


@dataclass
class Observed:
    """A few real training steps, seen from the scheduler's side."""

    train_steps: int = 0
    optimizer_steps: int = 0
    calls: int = 0
    """Calls of the scheduler inside train_step."""
    trace: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    """(calls so far, rate of each group) before the first train_step and after each one."""
    arguments: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    scheduler_raised: bool = False
    """The last train_step ended in a call of the scheduler that raised."""

    @property
    def per_train_step(self) -> float:
        """Optimizer steps in one train_step: 1 / accumulate_steps where it is called for each micro-batch."""
        return self.optimizer_steps / self.train_steps if self.train_steps else 0.0

    @property
    def rates_changed(self) -> bool:
        """Whether any group's rate was seen to change."""
        return any(rates != self.trace[0][1] for _, rates in self.trace)

    def form(self, scheduler: Any) -> CallForm | None:
        """How train_step calls the scheduler; None if its arguments follow no pattern that can be continued."""
        methods = {method for method, _ in self.arguments}
        if len(methods) != 1:
            return None
        method = methods.pop()
        numbers = [args[0] for _, args in self.arguments if args]
        if not numbers:
            return CallForm(method)
        if isinstance(scheduler, ReduceLROnPlateau):
            return CallForm(method, metric=True)
        if len(numbers) != self.calls or not all(isinstance(n, (int, float)) for n in numbers):
            return None
        increments = [b - a for a, b in itertools.pairwise(numbers)]
        if not increments or any(not math.isclose(i, increments[0], rel_tol=1e-6, abs_tol=1e-9) for i in increments):
            return None
        return CallForm(method, numbers[0], increments[0])


def observe(session: Session, *, most: int = 40, optimizer_steps: int = 6, seconds: float = 5.0) -> Observed:
    """Run the set-up's own steps, `most` at most, and count what happens to optimizer and scheduler in them.

    Done once the optimizer stepped `optimizer_steps` times and the scheduler was called thrice, or after `seconds`.

    Raises:
        UserCodeError: the loader or the step raised; that the scheduler did is noted instead.
    """
    setup, seen = session.setup, Observed()
    optimizer = setup.optimizer if setup.optimizer is not None else getattr(setup.scheduler, "optimizer", None)
    counts: Counter[int] = Counter()

    def count(stepped: Any, args: Any, kwargs: Any) -> None:
        counts[id(stepped)] += same_groups(stepped, optimizer)

    def note() -> None:
        # An optimizer inside another one (SAM, Lookahead) steps with it: that is one step.
        seen.optimizer_steps += max(counts.values(), default=0)
        counts.clear()
        groups = optimizer.param_groups if optimizer is not None else ()
        seen.trace.append((seen.calls, tuple(float(group["lr"]) for group in groups)))

    note()
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        stack.callback(register_optimizer_step_post_hook(count).remove)
        for method in METHODS:
            stack.enter_context(counted(setup.scheduler, method, seen))
        for batch in endless(session):
            try:
                session.step(batch)
            except UserCodeError:
                if not seen.scheduler_raised:
                    raise
            seen.train_steps += 1
            note()
            enough = seen.optimizer_steps >= optimizer_steps and (seen.calls >= 3 or setup.scheduler is None)
            if seen.scheduler_raised or enough or seen.train_steps >= most or time.monotonic() > deadline:
                break
    idle = {method for method, _ in seen.arguments} == {"step_update"} and not seen.rates_changed
    if idle and setup.scheduler_interval == "epoch":
        # A timm scheduler that counts epochs takes the updates too, and ignores them.
        seen.calls, seen.trace = 0, [(0, rates) for _, rates in seen.trace]
    return seen


def same_groups(one: Any, other: Any) -> bool:
    """Whether two optimizers are one, or one wraps the other: they share a parameter group, not a copy of it."""
    if one is other:
        return True
    groups = {id(group) for group in getattr(one, "param_groups", ())}
    return any(id(group) in groups for group in getattr(other, "param_groups", ()))


def follow(session: Session, train_steps: int, seconds: float) -> tuple[int, list[tuple[float, ...]]]:
    """Train for `train_steps` steps of the set-up, or `seconds`, and note the rates that the optimizer steps are made with.

    For a rate that is set by hand inside train_step, or by the optimizer itself: there is no scheduler to ask.
    Returns the number of train_steps made, and the rates of each group at the first optimizer step of each that had one.
    """
    optimizer, rates, done, seen = session.setup.optimizer, list[tuple[float, ...]](), 0, 0

    def note(stepped: Any, args: Any, kwargs: Any) -> None:
        if same_groups(stepped, optimizer) and len(rates) <= seen:
            rates.append(session.learning_rates())

    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        stack.callback(register_optimizer_step_pre_hook(note).remove)
        for batch in endless(session):
            if done >= train_steps or time.monotonic() > deadline:
                break
            seen = len(rates)
            session.step(batch)
            done += 1
            if len(rates) == seen and not isinstance(optimizer, Optimizer):
                rates.append(session.learning_rates())  # its steps cannot be watched
    return done, rates


def endless(session: Session) -> Iterator[Any]:
    """Batches without end. Unlike `Session.train_batches` this never steps the scheduler between two epochs."""
    while True:
        count = 0
        for batch in session.epoch():
            count += 1
            yield batch
        if not count:
            session.first_batch()  # raises, and says why


@contextlib.contextmanager
def counted(scheduler: Any, method: str, seen: Observed) -> Iterator[None]:
    """Inside, calls of `scheduler.method` are counted in `seen`."""
    original = getattr(scheduler, method, None)
    if not callable(original) or not hasattr(scheduler, "__dict__"):
        yield
        return
    own = vars(scheduler).get(method)

    def called(*args: Any, **kwargs: Any) -> Any:
        seen.calls += 1
        seen.arguments.append((method, tuple(a for a in (*args, *kwargs.values()) if a is not None)))
        try:
            return passed_on(original, *args, **kwargs)
        except BaseException:
            seen.scheduler_raised = True
            raise

    setattr(scheduler, method, called)
    try:
        yield
    finally:
        if own is None:
            delattr(scheduler, method)
        else:
            setattr(scheduler, method, own)
