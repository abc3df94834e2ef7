"""The optimizer's options work against the training: decay, momentum, eps, betas, dropout, direction.

## What it looks at
The options of every optimizer that stepped in the trial, against what the trial showed: the length of the momentum's memory
against the planned run, the pull of the weight decay against gradients and steps, the denominators of Adam against its
eps. An option that looks odd is not a fault yet: the same steps are taken again with a common value in its place, over
two seeds, and only what then trains much better is reported. Values that cannot work whatever the model (momentum of 1 or
more, negative decay, dropout of everything) need no such proof. L2 with Adam, decay on norms, biases and embeddings,
and eps are measured and told without alarm.

## Why it matters
None of these raises an error. A momentum that outlives the run diverges after an hour, a decay of 1.0 holds the weights at
zero, gradients of 1e-10 disappear in an eps of 1e-8: the loss curve shows only that it does not learn.

## What to do
Momentum 0.9 (betas 0.9 and 0.999), weight decay between 0 and 0.1 with AdamW (and a thousandth of that with SGD or Adam), eps
well below the gradients; scale the loss if they are tiny.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Skip, experiment
from stabcheck.reading import called
from stabcheck.recording import OptimizerFacts, Recording

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.optimizers.comparison import Comparison
    from stabcheck.trial.optimizers.suspects import Suspect

LEARNT = 0.3
"""Share of the way from the best constant guess to the floor that the repaired steps must come, or nothing is concluded:
they are too few. Trainings that go well cover more within the steps that are taken (here: .5 to 1.0)."""
LOST = 0.5
"""Share of the repaired steps' way that must be missing before anything is said."""
NOWHERE = 0.2
"""Share of the way below which, if their pace does not bring them half-way in the planned run, steps lead nowhere: decay and eps
that were made too large leave .00 to .14, the same steps without them cover .75 to 1.0 (12 options, 2 nets)."""
MISTYPED = 50
"""Steps of memory of Adam's first beta from which betas in the wrong order are told even without measured harm: adversarial
training lowers the first beta, nothing published raises it so far above the second."""

ASCENDS = Rule(
    "SC2401",
    "loss-maximised",
    "fail",
    message="{kind} has maximize=True, so every step increases the loss: {first:.3g} at the start, {last:.3g} after "
    "{steps} steps (best constant guess {constant:.3g})",
    fix="drop maximize=True, or give the negative of the score as the loss",
    why="The optimizer makes worse what it should make better.",
)
MEMORY = Rule(
    "SC2402",
    "momentum-out-of-range",
    "fail",
    message="{option}={value:g} in {kind}: {effect}",
    fix="{remedy}",
)
LONG_MEMORY = Rule(
    "SC2403",
    "momentum-outlives-run",
    "fail",
    message="momentum {value:g} averages over {memory:.0f} steps and multiplies the learning rate by as much{plan}: "
    "after {steps} steps the loss is {loss:.3g} (best constant guess {constant:.3g}); with {usual:g} the same "
    "steps reach {better:.3g}",
    fix="set momentum={usual:g}; a longer memory needs a learning rate that is smaller by the same factor",
)
SWAPPED = Rule(
    "SC2404",
    "betas-swapped",
    "fail",
    message="betas=({beta1:g}, {beta2:g}): the average of the gradients reaches further back ({memory1:.0f} steps) than "
    "that of their squares ({memory2:.0f}), so old gradients are divided by newer, smaller ones{harm}",
    fix="set betas=({beta2:g}, {beta1:g}): beta1, for the gradients, is the smaller one",
)
DROWNING_EPS = Rule(
    "SC2405",
    "eps-above-gradients",
    "fail",
    message="for {share:.0%} of the weights the gradients (typically {typical:.1e}) are below eps={value:g}, so {kind} "
    "takes steps {factor:.2g} times smaller than its learning rate says: after {steps} steps the loss is "
    "{loss:.3g} (best constant guess {constant:.3g}); with eps={repaired:.0e} the same steps reach {better:.3g}",
    fix="{remedy}",
)
DECAY = Rule(
    "SC2406",
    "weight-decay-outweighs-learning",
    "fail",
    message="weight_decay={value:g} {pull}: after {steps} steps the loss is {loss:.3g} (best constant guess "
    "{constant:.3g}); without decay the same steps reach {better:.3g}",
    fix="{remedy}",
)
NEGATIVE_DECAY = Rule(
    "SC2407",
    "negative-weight-decay",
    "fail",
    message="weight_decay={value:g} in {kind} makes every weight grow at every step",
    fix="give a weight_decay of zero or more",
)
ALL_DROPPED = Rule(
    "SC2408",
    "dropout-of-everything",
    "fail",
    message="{at} drops everything in training (p={value:g}): nothing behind it sees its input before evaluation",
    fix="give the probability to drop, not to keep: a smaller number, such as {keep:.2g}",
    why="Layers behind it are trained on zeros, and see their input for the first time in evaluation.",
)
ZERO_RATE_GROUP = Rule(
    "SC2409",
    "zero-rate-parameter-group",
    "warn",
    message="parameter group {group} ({count} tensors, such as {name}) has learning rate 0 and nothing raises it, while "
    "others train at {rate:.3g}",
    fix="give the group a learning rate, or freeze it explicitly with requires_grad_(False)",
    why="Weights that are meant to be trained stay at their initial values, while the run looks normal.",
)
FADING = Rule(
    "SC2410",
    "optimizer-lowers-its-own-rate",
    "fail",
    message="{option}={value:g} in {kind} lowers the learning rate by itself, to {left:.2g} of it by step {planned} and below a "
    "tenth by step {soon}: after {steps} steps the loss is {loss:.3g} (best constant guess {constant:.3g}); with "
    "{option}={usual:g} the same steps reach {better:.3g}",
    fix="set {option}={usual:g}, the default; a scheduler can lower the rate in a way that is seen",
    why="The training stops by itself, long before the run does, and the learning rate that is logged stays where it was.",
)


@experiment(
    title="Optimizer options",
    about=("optimizer", "train_step"),
    rules=(
        ASCENDS,
        MEMORY,
        LONG_MEMORY,
        SWAPPED,
        DROWNING_EPS,
        DECAY,
        NEGATIVE_DECAY,
        ALL_DROPPED,
        ZERO_RATE_GROUP,
        FADING,
    ),
    needs_trial=True,
    cost="dear",
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Read the options; where one is odd, take the same steps without it."""
    from stabcheck.trial.optimizers.full_dropout import silencing_dropouts
    from stabcheck.trial.optimizers.groups import decayed, idle_groups

    recording = bench.recording
    if recording is None or not recording.optimizers:
        raise Skip("no torch.optim.Optimizer of this model stepped in the trial, so there are no options to look at")
    shared = bench.shared()
    findings = [
        finding
        for facts in recording.optimizers
        for finding in (*_impossible(facts), *_ascending(facts, recording, known=shared.setup.train_step is None))
    ]
    for path, p in silencing_dropouts(shared, bench.seed):
        findings.append(ALL_DROPPED.at(path, at=called(path, bench.kinds), value=p, keep=0.1))
    for idle in idle_groups(shared, bench.peak_rates(), recording):
        findings.append(ZERO_RATE_GROUP.at(f"group {idle.group}", group=idle.group, count=idle.count, name=idle.name,
                                           rate=idle.others))  # fmt: skip
    notes: list[NotChecked] = []
    if not any(finding.severity == "fail" for finding in findings):
        findings += _tried(bench, recording, notes)
    kinds = ", ".join(dict.fromkeys(facts.kind for facts in recording.optimizers))
    return Outcome(
        summary=findings[0].message if findings else f"{kinds}: no option works against the training",
        findings=tuple(findings),
        measurements={
            "optimizers": [{"kind": facts.kind, "groups": list(facts.groups)} for facts in recording.optimizers],
            "below_eps": [facts.below_eps for facts in recording.optimizers],
            "typical_gradient": [facts.typical_gradient for facts in recording.optimizers],
            **decayed(shared),
        },
        not_checked=tuple(notes),
    )  # fmt: skip


def _impossible(facts: OptimizerFacts) -> Iterator[Finding]:
    """Values that cannot work, whatever the model, once for each optimizer. Only of torch's own optimizers, where it is
    known what an option means."""
    if not facts.is_torch:
        return
    for group in facts.groups:
        found = next(_memories(facts.kind, group), None)
        if found is not None:
            yield found
        elif (group.get("weight_decay") or 0.0) < 0:
            yield NEGATIVE_DECAY.at(value=group["weight_decay"], kind=facts.kind)
        else:
            continue
        return


def _memories(kind: str, group: dict[str, Any]) -> Iterator[Finding]:
    momentum, dampening = group.get("momentum") or 0.0, group.get("dampening") or 0.0
    if momentum >= 1:
        effect = "the velocity never forgets a gradient, and the steps grow without end"
        yield MEMORY.at(option="momentum", value=momentum, kind=kind, effect=effect, remedy="momentum=0.9")
    elif momentum and dampening >= 1:
        effect = "no gradient enters the momentum after the first step" if dampening == 1 else "steps go uphill"
        yield MEMORY.at(
            option="dampening", value=dampening, kind=kind, effect=effect, remedy="dampening=0, the default"
        )
    option = {"RMSprop": "alpha", "Adadelta": "rho"}.get(kind, "")
    if (group.get(option) or 0.0) >= 1:
        effect = "the mean of squared gradients takes in nothing new, so steps are divided by eps alone"
        yield MEMORY.at(option=option, value=group[option], kind=kind, effect=effect, remedy=f"{option}=0.9")


def _ascending(facts: OptimizerFacts, recording: Recording, *, known: bool) -> Iterator[Finding]:
    """A loss that is climbed on purpose is a score: it is negative, or bounded by one as likelihoods and overlaps are."""
    losses, constant = recording.losses, recording.yardsticks.constant
    if not any(group.get("maximize") for group in facts.groups) or len(losses) < 2 or constant is None:
        return
    last = next((loss for loss in reversed(losses) if math.isfinite(loss)), losses[0])
    if not last > max(losses[0], constant, 1.0) or min(losses) < 0:
        return
    yield ASCENDS.at(
        severity="fail" if known else "warn",
        kind=facts.kind,
        first=losses[0],
        last=last,
        steps=len(losses),
        constant=constant,
    )


def _tried(bench: Bench, recording: Recording, notes: list[NotChecked]) -> list[Finding]:
    """The suspects one after the other, until one is convicted."""
    from stabcheck.trial.optimizers.comparison import compare
    from stabcheck.trial.optimizers.suspects import suspects

    found = []
    for suspect in suspects(recording):
        bench.tell(None, f"taking the same steps without {suspect.what}")
        outcome = compare(bench, suspect, recording)
        if isinstance(outcome, str):
            notes.append(NotChecked(f"whether {suspect.what} harms", outcome))
            continue
        severity = _severity(suspect, outcome)
        if severity is not None:
            return [_finding(suspect, outcome, severity)]
        if suspect.rule == "betas" and suspect.facts["memory1"] >= MISTYPED:
            found.append(SWAPPED.at(severity="warn", harm="", **suspect.facts))
    return found


def _severity(suspect: Suspect, seen: Comparison) -> Any:
    """Fail where the steps lead nowhere; warn where they lose half of the way; None where they do neither, or nothing
    can be said."""
    if not all(repaired >= LEARNT and own <= (1 - LOST) * repaired for own, repaired in seen.shares):
        return None
    if all(own < NOWHERE for own, _ in seen.shares) and not seen.catches_up:
        return "fail"
    return "fail" if suspect.rule in {"memory", "fading"} and not seen.falls else "warn"


def _finding(suspect: Suspect, seen: Comparison, severity: Any) -> Finding:
    facts: dict[str, Any] = {
        "steps": seen.steps, "loss": seen.own, "better": seen.repaired, "constant": seen.constant,
        "shares": [list(pair) for pair in seen.shares], **suspect.facts,
    }  # fmt: skip
    if suspect.rule == "betas":
        facts["harm"] = (
            f": after {seen.steps} steps the loss is {seen.own:.3g}, and {seen.repaired:.3g} with the two exchanged (best "
            f"constant guess {seen.constant:.3g})"
        )
    rule = {"memory": LONG_MEMORY, "betas": SWAPPED, "eps": DROWNING_EPS, "decay": DECAY, "fading": FADING}[
        suspect.rule
    ]
    return rule.at(severity=severity, **facts)
