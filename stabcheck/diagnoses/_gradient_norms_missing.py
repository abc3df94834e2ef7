"""The part of gradient-norms that judges parameters to which no gradient comes, or none but zeros."""

from __future__ import annotations

import math

from stabcheck.check import Finding, Rule, Severity
from stabcheck.reading import called
from stabcheck.recording import Parameter, Recording

SEVERAL = 10
"""Steps in which a gradient must have been zero before it is said to stay so."""
MOST_FINDINGS = 5
"""Modules named one by one: more would bury what they have in common."""
FADING = 1e-30
"""Gradients below this may be zero in the next layer because float32 has no smaller numbers; layers shrink them, by tens or
thousands and not to nothing."""

CUT_OFF = Rule(
    "SC0202",
    "cut-graph",
    "fail",
    "{count} parameter(s) of {at} never get a gradient, although the loss depends on them: the graph is cut between "
    "{at} and the loss",
    "remove the .detach(), .data, .item(), torch.tensor(...) or torch.no_grad() that {at}'s output passes; lead the gradient past "
    "a choice (argmax, argmin, a comparison) straight through: x + (chosen - x).detach(); if the cut is meant, set "
    "requires_grad=False on {at} and leave it out of the optimizer",
    why="A parameter that is cut off keeps its random start while the run looks normal.",
)
STUCK = Rule(
    "SC0207",
    "stuck-at-zero",
    "fail",
    "{count} weight(s) of {at} start at zero and their gradient is exactly zero at every one of {steps} steps: what they "
    "are multiplied with is zero as well, so they can never move",
    "initialise one of the two factors with small random values: one zero-initialised layer or gate opens by itself, two in "
    "a row never do",
    why="A weight that stays zero does nothing, while the run looks normal.",
)
DROPPED = Rule(
    "SC0208",
    "output-thrown-away",
    "fail",
    "{at} runs at every step, and what comes of it is thrown away{instead}: {count} trainable parameter(s) of it never get a "
    "gradient, and the loss does not depend on them",
    "look in the forward of {by} for the variable that holds {at}'s output, and use it where another was taken; if it is not "
    "wanted, do not compute it",
    why="It costs time and memory at every step and keeps its random start, while the run looks normal.",
)
FLAT = Rule(
    "SC0209",
    "gradient-exactly-zero",
    "fail",
    "the gradient is exactly zero in {where} at every one of {steps} steps, although {although}: nothing there is trained",
    "look {between} for what is flat nearly everywhere: clamp, min or max against a constant that always wins, round, sign, "
    "argmax, a comparison, a mask that hides everything, a factor of zero",
    why="A gradient of exactly zero moves nothing, whatever the learning rate.",
)
RULES = (CUT_OFF, STUCK, DROPPED, FLAT)


def judge(recording: Recording) -> list[Finding]:
    """Everything that is found."""
    return [*_cut_off(recording), *_stuck(recording), *_dropped(recording), *_flat(recording)]


def never(parameter: Parameter) -> bool:
    """Whether no gradient was ever seen."""
    return all(v is None for v in (*parameter.grad_norm, *parameter.clipped_norm))


def _cut_off(recording: Recording) -> list[Finding]:
    """One finding for each outermost module whose parameters are all cut off."""
    cut = [p for p in recording.parameters if p.trainable and p.optimized and p.matters is True and never(p)]
    return [
        CUT_OFF.at(module or None, at=called(module, recording.kinds), count=count)
        for module, count in list(_by_module(recording, cut).items())[:MOST_FINDINGS]
    ]


def _by_module(recording: Recording, found: list[Parameter]) -> dict[str, int]:
    """How many of `found` are in each of the outermost modules all of whose trainable parameters are among them."""
    names = {p.name for p in found}
    trainable = [p.name for p in recording.parameters if p.trainable]
    counts: dict[str, int] = {}
    for p in found:
        place = p.module
        while outer := place.rpartition(".")[0]:
            if not names.issuperset(name for name in trainable if name.startswith(f"{outer}.")):
                break
            place = outer
        counts[place] = counts.get(place, 0) + 1
    return counts


def _dropped(recording: Recording) -> list[Finding]:
    """One finding for each outermost module whose output is thrown away by a forward that the user wrote."""
    facts = {d.module: d for d in recording.dropped}
    lost = [p for p in recording.parameters if p.trainable and p.optimized and p.module in facts and never(p)]
    found = []
    for module, count in list(_by_module(recording, lost).items())[:MOST_FINDINGS]:
        one = next(d for name, d in facts.items() if f"{name}.".startswith(f"{module}.") or not module)
        if one.by and one.by not in recording.sources:
            continue
        instead = ", while something of the same shape goes on in its place" if one.fits else ""
        severity: Severity = "fail" if one.fits else "warn"
        found.append(
            DROPPED.at(
                module or None, source=recording.source(one.by), severity=severity, at=called(module, recording.kinds), count=count,
                by=called(one.by, recording.kinds), instead=instead,
            )
        )  # fmt: skip
    return found


def _flat(recording: Recording) -> list[Finding]:
    """Where the gradient is exactly zero from the start: of everything, or of what comes before a layer that has one."""
    steps = recording.steps
    norms = [s.grad_norm for s in steps]
    if len(norms) < SEVERAL or not all(s.loss is None or math.isfinite(s.loss) for s in steps):
        return []
    if any(p.zero_at_start and _is_zero(p) for p in recording.parameters if len(p.shape) >= 2):
        return []  # such a layer is what lets nothing through
    if all(norm == 0.0 for norm in norms):
        although = f"the loss is {recording.losses[-1]:.3g}" if recording.losses else "an optimizer steps"
        between = "between the outputs and the loss"
        return [FLAT.at(None, where="every parameter", although=although, between=between, steps=len(steps))]
    dead = {p.module for p in recording.parameters if p.trainable and p.matters is True and _is_zero(p)}
    dead -= {p.module for p in recording.parameters if p.trainable and not _is_zero(p)}
    order = [s for s in recording.signals if any(v is not None for v in s.grad_norm)]
    places = [i for i, s in enumerate(order) if s.module in dead and not any(s.grad_norm)]
    following = order[places[-1] + 1 :] if places else []
    after = next((s.module for s in following if any((v or 0.0) > FADING for v in s.grad_norm)), None)
    if after is None:
        return []
    place = order[places[-1]].module
    more = f" and {len(places) - 1} layer(s) before it" if len(places) > 1 else ""
    here, there = called(place, recording.kinds), called(after, recording.kinds)
    return [
        FLAT.at(
            place or None,
            where=f"{here}{more}",
            although="the loss changes with its weights",
            between=f"between {here} and {there}",
            steps=len(steps),
        )
    ]


def _is_zero(parameter: Parameter) -> bool:
    values = [v for v in parameter.grad_norm if v is not None]
    return len(values) >= SEVERAL and not any(values)


def _stuck(recording: Recording) -> list[Finding]:
    """One finding for each of the first few modules whose zero weights never get a gradient other than zero."""
    modules: dict[str, int] = {}
    for p in recording.parameters:
        values = [v for v in p.grad_norm if v is not None]
        if (
            p.zero_at_start
            and p.trainable
            and p.optimized
            and len(p.shape) >= 2
            and len(values) >= SEVERAL
            and not any(values)
        ):
            modules[p.module] = modules.get(p.module, 0) + 1
    return [
        STUCK.at(module or None, at=called(module, recording.kinds), count=count, steps=len(recording.steps))
        for module, count in list(modules.items())[:MOST_FINDINGS]
    ]
