"""The part of eval-mode that judges modes: which modules validate in training mode, and which dropout never stops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Source
from stabcheck.experiments._eval_mode_aftermath import named

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.validation.rehearsal import Rehearsal
    from stabcheck.trial.validation.sightings import Activity

MONTE_CARLO_PASSES = 3
"""Forwards of the same input from which active dropout is taken for Monte-Carlo averaging. Two are common without it:
one for the loss and one for the metric."""

_SAYS_MONTE_CARLO = re.compile(r"(?<![a-zA-Z])mc(?![a-z])|MC(?=[A-Z_])|monte|bayes", re.IGNORECASE)

TRAINING_MODE = Rule(
    "SC0601",
    "validation-in-training-mode",
    "fail",
    message="{where} runs {what} in training mode: {effect}; {cause}{difference}",
    fix="call eval() on the model at the start of validate(), and train() when it is done",
)
BEYOND_EVAL = Rule(
    "SC0602",
    "module-beyond-eval",
    "fail",
    message="eval() does not reach {what}: {why}; while validating, {effect}",
    fix="register modules as attributes or in an nn.ModuleList, and let train() pass the mode on to all of them",
)
DROPOUT = Rule(
    "SC0603",
    "dropout-ignores-eval",
    "fail",
    message="{name} stays active in eval mode{strength} in {inside}: validation and inference drop activations at random",
    fix="{advice}",
)

RULES = (TRAINING_MODE, BEYOND_EVAL, DROPOUT)

_EFFECTS = {
    "dropout": "activations are dropped at random",
    "statistics": "the statistics of the batch at hand are used, and the running ones take in validation data",
    "custom": "its outputs are not those of eval mode",
}


def judge(bench: Bench, seen: Rehearsal, where: str, source: Source | None) -> Iterator[Finding]:
    """Every module that validates otherwise than in eval mode. `where` and `source` are the validation's name and place."""
    yield from _modes(bench, seen, where, source)
    yield from _dropout(seen)


def _modes(bench: Bench, seen: Rehearsal, where: str, own: Source | None) -> Iterator[Finding]:
    visits = seen.in_training_mode()
    beyond = [v for v in visits if seen.why_beyond(v)]
    if beyond:
        first = beyond[0]
        why, source = seen.why_beyond(first) or ("", None)
        yield BEYOND_EVAL.at(
            first.path or None,
            source=source or bench.source(first.module),
            what=named(beyond),
            why=why,
            effect=_EFFECTS[first.effect or "custom"],
        )
    rest = [v for v in visits if v not in beyond]
    if not rest:
        return
    monte_carlo = seen.run.passes_per_input >= MONTE_CARLO_PASSES and all(v.effect == "dropout" for v in rest)
    deliberate = all(seen.deliberate(v) for v in rest) and all(v.effect == "dropout" for v in rest)
    if deliberate and (monte_carlo or seen.run.repeats >= MONTE_CARLO_PASSES):
        return
    first = rest[0]
    cause, source = seen.why_training(first)
    yield TRAINING_MODE.at(
        first.path or None,
        source=source or own,
        severity="warn" if monte_carlo or deliberate else "fail",
        where=where,
        what=named(rest),
        effect=_EFFECTS[first.effect or "custom"],
        cause=cause,
        difference=_difference(seen),
    )


def _difference(seen: Rehearsal) -> str:
    """What validating in eval mode gives instead."""
    here, there = seen.run.numbers, seen.in_eval.numbers if seen.in_eval else {}
    apart = {k: abs(here[k] - there[k]) / (abs(there[k]) or 1.0) for k in here.keys() & there.keys()}
    if not apart:
        return ""
    key = max(sorted(apart), key=lambda k: apart[k])
    a, b = (f"{key} = {x:.5g}" if key else f"{x:.5g}" for x in (here[key], there[key]))
    return f"; it returned {a}, and returns {b} with all modules in eval mode" if a != b else ""


def _dropout(seen: Rehearsal) -> Iterator[Finding]:
    for act in seen.run.activities:
        function = act.author.function if act.author else ""
        by_design = seen.run.passes_per_input >= MONTE_CARLO_PASSES or any(
            _SAYS_MONTE_CARLO.search(text) for text in (act.kind or "", act.path or "", function)
        )
        if by_design or (act.by_hand and not seen.noisy_in_eval):
            continue
        yield DROPOUT.at(
            act.path or None,
            source=act.author.place if act.author and act.author.users else None,
            # Outside of all modules it may be the noise of a contrastive loss.
            severity="fail" if act.kind else "warn",
            name=f"a random mask made with {act.name}()" if act.by_hand else f"{act.name}()",
            strength="" if act.strength is None else f" with probability {act.strength:g}",
            inside=f"{act.path or 'the model'} ({act.kind})" if act.kind else "the loss",
            advice=_advice(act),
            calls=act.count,
        )


def _advice(act: Activity) -> str:
    if act.by_hand:
        return "return the input unchanged `if not self.training`"
    if act.name == "scaled_dot_product_attention":
        return "pass dropout_p=p if self.training else 0.0: this function does not know the mode"
    return f"pass training=self.training to {act.name}(), whose default is True, or use nn.Dropout"
