"""Options of an optimizer that are odd enough to be tried against a common value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stabcheck.recording import OptimizerFacts, Recording
from stabcheck.trial.optimizers.rerun import Change

USUAL_MOMENTUM = 0.9
LONG = 0.995
"""Momentum that remembers 200 steps. Published trainings use up to 0.99."""
HALF = 0.5
"""Share of the weights whose gradients must be below eps before eps is tried."""
TINY = 1e-3
"""Times the typical gradient: an eps that changes nothing."""
MOST_STEPS = 600
"""That are taken to show the effect of an option."""
USUAL_STEPS = 200
"""That are taken where the effect shows at once."""
FAMILIES = {"Adam", "AdamW", "NAdam", "RAdam", "Adamax"}
"""Optimizers whose two betas are the memories of gradients and of their squares."""
FADED = 0.1
"""Share of its rate that an optimizer which lowers it by itself has left when the run ends, before that is looked into."""


@dataclass(frozen=True)
class Suspect:
    """An odd option, what it is replaced by, and the steps that show its effect."""

    rule: Literal["memory", "betas", "eps", "decay", "fading"]
    what: str
    change: Change
    steps: int
    facts: dict[str, Any]


def suspects(recording: Recording) -> Iterator[Suspect]:
    """All odd options, the most telling first."""
    planned = recording.planned_steps or MOST_STEPS
    for facts in recording.optimizers:
        for find in (_memory, _betas, _eps, _decay, _fading):
            yield from find(facts, recording, planned)


def _set(**options: Any) -> Change:
    """Puts the options into every group that has them."""

    def change(optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group.update({key: value for key, value in options.items() if key in group})

    return change


def _highest(facts: OptimizerFacts, option: str) -> float:
    return max((float(group.get(option) or 0.0) for group in facts.groups), default=0.0)


def _memory(facts: OptimizerFacts, recording: Recording, planned: int) -> Iterator[Suspect]:
    momentum = _highest(facts, "momentum") or (_highest(facts, "beta1") if facts.kind in FAMILIES else 0.0)
    if not LONG <= momentum < 1:
        return

    def change(optimizer: Any) -> None:
        for group in optimizer.param_groups:
            if group.get("momentum"):
                group["momentum"] = min(group["momentum"], USUAL_MOMENTUM)
            if len(group.get("betas", ())) == 2:
                group["betas"] = (min(group["betas"][0], USUAL_MOMENTUM), group["betas"][1])

    memory = 1 / (1 - momentum)
    plan = f" ({recording.planned_steps} are planned)" if recording.planned_steps else ""
    yield Suspect(
        "memory", f"momentum {momentum:g}", change, int(min(planned, max(2 * memory, USUAL_STEPS), MOST_STEPS)),
        {"value": momentum, "memory": memory, "plan": plan, "usual": USUAL_MOMENTUM},
    )  # fmt: skip


def _betas(facts: OptimizerFacts, recording: Recording, planned: int) -> Iterator[Suspect]:
    """beta1² above beta2 leaves the region in which Adam is known to converge (Reddi et al. 2018 ask for it)."""
    beta1, beta2 = _highest(facts, "beta1"), _highest(facts, "beta2")
    if facts.kind not in FAMILIES or not beta2 < beta1 < 1 or beta1**2 <= beta2:
        return

    def change(optimizer: Any) -> None:
        for group in optimizer.param_groups:
            first, second = group.get("betas", (0, 0))
            if first > second:
                group["betas"] = (second, first)

    memories = {"memory1": 1 / (1 - beta1), "memory2": 1 / (1 - beta2)}
    steps = min(planned, USUAL_STEPS)
    yield Suspect("betas", f"betas=({beta1:g}, {beta2:g})", change, steps, {"beta1": beta1, "beta2": beta2, **memories})


def _eps(facts: OptimizerFacts, recording: Recording, planned: int) -> Iterator[Suspect]:
    share, typical = facts.below_eps, facts.typical_gradient
    if share is None or typical is None or share < HALF:
        return
    eps = _highest(facts, "eps")
    repaired = TINY * typical
    usual = 1e-8
    if typical > usual / TINY:
        remedy, repaired = f"eps={usual:g}, the default", usual
    else:
        remedy = f"multiply the loss by {10 * usual / typical:.0e} (a mean in place of a tiny factor), or give eps={repaired:.0e}"
    yield Suspect(
        "eps", f"eps={eps:g}", _set(eps=repaired), min(planned, USUAL_STEPS),
        {"value": eps, "share": share, "typical": typical, "factor": (eps + typical) / typical, "repaired": repaired,
         "kind": facts.kind, "remedy": remedy},
    )  # fmt: skip


def _decay(facts: OptimizerFacts, recording: Recording, planned: int) -> Iterator[Suspect]:
    """Decay that shrinks the weights within the steps looked at, or that is larger than the gradient it is added to."""
    decay = _highest(facts, "weight_decay")
    if decay <= 0:
        return
    rate = max((max(step.lr) for step in recording.steps if step.lr), default=0.0)
    decoupled = facts.decoupled
    adaptive = not decoupled and facts.below_eps is not None
    momentum = 0.0 if adaptive or decoupled else _highest(facts, "momentum")
    shrink = 0.0 if adaptive else rate * decay / max(1 - momentum, 1e-6)
    ratio = 0.0 if decoupled else decay * _weights_over_gradients(recording)
    steps = min(planned, USUAL_STEPS)
    if shrink * steps < 1 and ratio < 1:
        return
    if shrink * steps >= 1:
        pull = f"at learning rate {rate:.3g} shrinks every weight by {min(shrink, 1.0):.2g} of itself per step"
    else:
        pull = f"adds a term to the gradient that is {ratio:.2g} times as large as the gradient"
    remedy = f"a weight_decay of about {_rounded(decay / max(10 * shrink * steps, 100 * ratio, 1)):.0e}"
    if adaptive:
        remedy += "; with AdamW it acts on the weights alone"
    facts_found = {"value": decay, "pull": pull, "shrink": shrink, "ratio": ratio, "remedy": remedy}
    yield Suspect("decay", f"weight_decay={decay:g}", _set(weight_decay=0.0), steps, facts_found)


def _fading(facts: OptimizerFacts, recording: Recording, planned: int) -> Iterator[Suspect]:
    """Adagrad divides its rate by 1 + lr_decay * t, ASGD by (1 + lambd * lr * t) ** alpha, whatever the schedule does."""
    if not facts.is_torch or facts.kind not in _FADING:
        return
    option, usual = _FADING[facts.kind]
    value = _highest(facts, option)
    rate = max((max(step.lr) for step in recording.steps if step.lr), default=0.0)

    def left(steps: int) -> float:
        if facts.kind == "Adagrad":
            return 1 / (1 + value * steps)
        return float((1 + value * rate * steps) ** -_highest(facts, "alpha"))

    if not value > usual or left(planned) >= FADED:
        return
    steps = min(planned, USUAL_STEPS)
    yield Suspect(
        "fading", f"{option}={value:g}", _set(**{option: usual}), steps,
        {"option": option, "value": value, "usual": usual, "kind": facts.kind, "planned": planned, "left": left(planned),
         "soon": next((n for n in (10, 100, 1000) if left(n) < FADED), planned)},
    )  # fmt: skip


_FADING = {"Adagrad": ("lr_decay", 0.0), "ASGD": ("lambd", 1e-4)}
"""The option by which an optimizer lowers its own rate, and torch's default."""


def _rounded(value: float) -> float:
    return float(f"{value:.0e}")


def _weights_over_gradients(recording: Recording) -> float:
    """Norm of the weights over the norm of their gradients, at the end of the trial; 0 if it was not recorded."""
    if not recording.sampled:
        return 0.0
    row, step = len(recording.sampled) - 1, recording.sampled[-1]
    weights = gradients = 0.0
    for p in recording.parameters:
        weight, gradient = p.weight_norm[row], p.clipped_norm[step]
        if p.optimized and weight is not None and gradient is not None:
            weights, gradients = math.hypot(weights, weight), math.hypot(gradients, gradient)
    return weights / gradients if gradients > 0 else 0.0
