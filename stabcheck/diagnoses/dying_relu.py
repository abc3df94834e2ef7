"""ReLU units that no input switches on any more.

## What it looks at
Every call of ReLU, ReLU6, clamp at zero and the like, as module or function, in place or not. A unit (a channel of a
feature map) is dead if it fired for no input of the last ten batches of the trial; "never in the whole trial"
would miss the ones an update killed, which fired before it. A layer fails if more than 90 % of it is dead, the gradient
has no way around it, and the model has learnt nothing about its inputs.

## Why it matters
A dead unit passes no gradient, so it stays dead. Up to 85 % of a layer can die without harm; a layer that is wholly
dead cuts off everything before it.

## What to do
Dead from the start: biases or inputs far below zero; initialise biases at zero and weights by He, and scale the inputs. Killed by
an update: lower the learning rate or warm it up, or clip gradients. LeakyReLU or GELU keep a gradient on the negative side.
"""

from __future__ import annotations

from typing import Any

from stabcheck.check import Finding, Outcome, Rule, Skip, diagnosis
from stabcheck.reading import FIRST_STEPS, WINDOW, called, progress, silent_window, too_few
from stabcheck.recording import CONSTANT_LEVEL, Recording, Rectifier

FAIL_DEAD, WARN_DEAD = 0.9, 0.75
"""Share of a layer. With no progress and no bypass the FAIL rule raised 0.6 % alarms on 516 healthy trainings; layers below
85 % did no harm in 108 pairs of ReLU and leaky twins."""
FEWEST_UNITS = 8
"""A narrower layer can lose all its units by chance."""
KILLED_GROWTH = 0.3
"""A layer whose dead share grew by more since the first five steps was killed by updates; else it was born dead."""
BORN_DEAD = Rule(
    "SC0901",
    "born-dead-layer",
    "fail",
    "{dead:.0%} of the {units} units of the {kind} in {where} never fire, from the first batch on, and no gradient can pass it",
    "initialise the bias of {after} at zero and its weights by He initialisation, scale its inputs; or use LeakyReLU or GELU",
)
KILLED = Rule(
    "SC0902",
    "killed-layer",
    "fail",
    "{dead:.0%} of the {units} units of the {kind} in {where} stopped firing within the trial ({early:.0%} were silent in the "
    "first {first_steps} steps), and nothing is learnt any more",
    "lower the learning rate{rate} by 10 or warm it up; clip gradients; or use LeakyReLU or GELU",
)
MOSTLY_DEAD = Rule(
    "SC0903",
    "mostly-dead-layer",
    "warn",
    "{dead:.0%} of the {units} units of the {kind} in {where} fired for none of the last {samples} inputs, and "
    "nothing is learnt yet",
    "check the bias and weight initialisation of {after} and the learning rate{rate}; LeakyReLU or GELU keep a gradient",
)


@diagnosis(title="Dying ReLU", about=("model",), rules=(BORN_DEAD, KILLED, MOSTLY_DEAD), reads=(CONSTANT_LEVEL,))
def CHECK(recording: Recording) -> Outcome:  # noqa: N802
    """Count the units that are silent at the end of the trial."""
    if not recording.rectifiers:
        raise Skip("the model calls no ReLU or other function that is flat on one side")
    last = recording.steps[-1].index
    window = silent_window(recording.steps[-1].samples, len(recording.steps))
    if all(not r.observed or r.observed[-1] != last for r in recording.rectifiers):
        raise Skip(
            f"the trial ended after {len(recording.steps)} of {recording.planned} steps, before those that decide"
        )
    judged = [r for r in recording.rectifiers if r.units >= FEWEST_UNITS and r.observed and r.observed[-1] == last]
    shares = {r: dead_share(r, last, window) for r in judged}
    layers = [
        {
            "module": r.module,
            "call": r.call,
            "kind": r.kind,
            "units": r.units,
            "dead": shares[r],
            "dead_at_start": early_share(r),
        }
        for r in judged
    ]
    measured = {"layers": layers, "window_steps": window}
    if not judged:
        raise Skip(f"no layer of {FEWEST_UNITS} units or more goes through a ReLU, and fewer can fall silent by chance")
    stalled = progress(recording).stalled
    findings = [f for r in judged if stalled and (f := _judge(recording, r, shares[r], window))]
    worst = max(judged, key=lambda r: shares[r])
    summary = (
        f"{shares[worst]:.0%} of {where(recording, worst)} is silent, less elsewhere"
        if shares[worst]
        else "every unit fires"
    )
    if not findings and shares[worst] and len(recording.steps) < WINDOW:
        raise Skip(f"{too_few(len(recording.steps))} to tell whether units that are silent stay so")
    if findings:
        # The first layer that is dead silences the rest: one finding, for the first.
        findings = sorted(findings, key=lambda f: f.severity != "fail")[:1]
        summary = f"{findings[0].evidence['dead']:.0%} of {findings[0].evidence['where']} is dead"
    elif shares[worst] > WARN_DEAD:
        summary += ", but the loss falls: harmless so far"
    return Outcome(summary, tuple(findings), measured)


def _judge(recording: Recording, rectifier: Rectifier, dead: float, window: int) -> Finding | None:
    if dead <= WARN_DEAD or rectifier.bypassed or _starts_constant(recording, rectifier.after):
        return None
    rates = next((s.lr for s in recording.steps if s.lr), ())
    early = early_share(rectifier)
    facts: dict[str, Any] = {
        "dead": dead, "early": early, "units": rectifier.units, "kind": rectifier.kind, "where": where(recording, rectifier),
        "after": called(rectifier.after, recording.kinds) if rectifier.after else "the layer before it",
        "first_steps": FIRST_STEPS, "window": window,
        "samples": window * recording.steps[-1].samples, "rate": f" (now {max(rates):.3g})" if rates else "",
    }  # fmt: skip
    rule = MOSTLY_DEAD if dead <= FAIL_DEAD else KILLED if dead - early > KILLED_GROWTH else BORN_DEAD
    place = rectifier.module or None
    return rule.at(place, **facts)


def _starts_constant(recording: Recording, module: str | None) -> bool:
    """Whether the layer before began with equal weights: then that is the fault, and its units are silent for it."""
    return any(p.module == module and p.constant_at_start and len(p.shape) >= 2 for p in recording.parameters)


def dead_share(rectifier: Rectifier, last: int, window: int) -> float:
    """Share of units that fired at none of the last `window` steps."""
    return sum(step <= last - window for step in rectifier.last_fired) / rectifier.units


def early_share(rectifier: Rectifier) -> float:
    """Share of units that fired at none of the first steps."""
    return sum(not 0 <= step < FIRST_STEPS for step in rectifier.first_fired) / rectifier.units


def where(recording: Recording, rectifier: Rectifier) -> str:
    """How a reader finds the call."""
    place = called(rectifier.module, recording.kinds) if rectifier.module else "the model's forward"
    return f"{place} (call {rectifier.call + 1})" if rectifier.call else place
