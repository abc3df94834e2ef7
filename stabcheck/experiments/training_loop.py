"""The training step loses, repeats or misplaces a part of its work: zero_grad, backward, clipping, step.

## What it looks at
Some calls of your own train_step, as they are, with each gradient followed through PyTorch's own hooks: which backward
passes are in it when an optimizer uses it, whether it was used before, cleared, clipped before or after, still multiplied by
the GradScaler. Accumulation, closures, several optimizers and two-pass steps (SAM, GANs, attacks) are told apart from mistakes,
because only gradients that an optimizer uses count. Where two optimizers move the same parameters, whether the step of the one
takes back what the other's gains, and only passes through them on its way. Also: parameters that get gradients but have no
optimizer, layers that the model does not list, tensors in an optimizer that are no longer the model's, graphs that outlive
their step. Where the forward or the loss detaches a tensor, one batch is fitted as it is and, if that fails, with nothing
detached.

## Why it matters
Misplaced or missing operations are among the most frequent silent bugs of PyTorch users. The loss often still falls for a
while, so that the run looks merely bad.

## What to do
The order is: zero_grad, forward, backward, scaler.unscale_, clip, optimizer step, scheduler step. Build the optimizer last,
from the parameters of the model that is trained. Keep loss.item(), not loss, for the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Outcome, Rule, Skip, experiment
from stabcheck.experiments import _training_loop_order, _training_loop_ownership
from stabcheck.reading import called
from stabcheck.userland import UserCodeError

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.loop.watched import Watched


FITTED, UNFITTED = 0.1, 0.5
"""Shares of the way from the best constant guess to the floor: below the first a fit of one batch ends, above the second it has
failed. As in one-batch-overfit."""
UNHEARD = 0.9
"""Share that is left of a noisy loss if nothing was learnt through the noise. A VAE whose latent is cut from .data leaves 1.01
after 200 steps, the same one uncut 0.8 after 77."""

HELPS = 2.0
"""Times as far that the loss has to come down once frozen random layers are trained too. What is meant to stay random (an extreme
learning machine, an echo state network, a distilled random network, a table of embeddings) comes to 1.0 to 1.5."""

FROZEN = Rule(
    "SC1522",
    "random-layers-frozen",
    "fail",
    message="{count} parameter(s) of {at} have requires_grad=False and the random values that they were made with: {steps} of your "
    "own steps take the loss from {first:.3g} to {kept:.3g}, and to {freed:.3g} once they are trained too",
    fix="freeze layers only after their weights were loaded; here set requires_grad=True on them, before the optimizer is built",
    why="What is frozen at random gives random features, and all that comes after has to live with them.",
)
SEVERED = Rule(
    "SC1516",
    "detached-on-the-way-to-the-loss",
    "fail",
    message="a tensor with a gradient to carry is cut by {how} in {at}: one batch cannot be fitted with it (loss {stays:.3g}, "
    "{left:.0%} of the way from the best constant guess is left), and can without ({falls:.3g}, {left_without:.0%})",
    fix="leave out {how} there; detach only what is meant to stay fixed, such as targets",
    why="What lies before the cut keeps its random start, while the rest learns to live with it.",
)


@experiment(
    title="Training step in order",
    about=("train_step", "optimizer"),
    rules=tuple(
        sorted(
            (*_training_loop_order.RULES, *_training_loop_ownership.RULES, SEVERED, FROZEN), key=lambda rule: rule.code
        )
    ),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Watch some steps of the set-up's own loop."""
    from stabcheck.trial.loop.watched import watch

    seen = watch(bench)
    setup = seen.session.setup
    source = bench.source(setup.train_step)
    findings = list(
        _training_loop_ownership.judge(
            seen, bench.places.get("optimizer") or source, bench.source, bench.kinds, learned=bench.built.learned
        )
    )
    if setup.train_step is not None:
        findings += list(_training_loop_order.Judge(seen, source, bench.recording).findings(bool(findings)))
    if not findings:
        findings += _severed(bench) or _frozen(bench, seen)
    outcome = Outcome(_summary(seen, findings), tuple(findings), _measured(seen))
    if seen.unheld and not findings:
        outcome = outcome.but_not(
            f"whether the {seen.unheld} parameters outside the optimizer are to stay as they are",
            "they get a gradient that nothing uses: give them to the optimizer, or set requires_grad=False on them",
        )
    if setup.train_step is None:
        return outcome.but_not("your own training step", "stabcheck's textbook loop was watched: add 'train_step'")
    if not seen.uses and not findings:
        return outcome.but_not("the order of the training step", "no torch.optim.Optimizer of this model stepped")
    return outcome


def _severed(bench: Bench) -> list[Finding]:
    from stabcheck.trial.loop.severed import severed

    try:
        found = severed(bench, fitted=FITTED, unfitted=UNFITTED, unheard=UNHEARD)
    except (Skip, UserCodeError):  # it is a second question, and the first has its answer
        return []
    if found is None:
        return []
    return [
        SEVERED.at(
            found.module or None, source=found.source, how=found.how, at=called(found.module, bench.kinds), stays=found.stays,
            falls=found.falls, left=found.left, left_without=found.left_without,
        )
    ]  # fmt: skip


def _frozen(bench: Bench, seen: Watched) -> list[Finding]:
    from stabcheck.trial.loop.frozen import frozen

    try:
        found = frozen(bench, seen.session)
    except (Skip, UserCodeError, RuntimeError):
        return []
    if found is None or found.first - found.freed < HELPS * max(found.first - found.kept, 0.0):
        return []
    place = found.modules[0]
    more = f" and {len(found.modules) - 1} more" if len(found.modules) > 1 else ""
    return [
        FROZEN.at(
            place or None, source=bench.source(seen.session.model), at=called(place, bench.kinds) + more, count=found.count,
            first=found.first, kept=found.kept, freed=found.freed, steps=found.steps,
        )
    ]  # fmt: skip


def _measured(seen: Watched) -> dict[str, Any]:
    last = seen.calls[-1]
    return {
        "calls": len(seen.calls),
        "optimizers": list(seen.optimizers),
        "steps": len(seen.uses),
        "backward_passes": sum(len(call.backwards) for call in seen.calls),
        "gradient_norms": [use.norm for use in seen.uses],
        "parameters_with_optimizer": seen.held,
        "parameters_with_gradient_only": seen.unheld,
        "graph_nodes": [call.nodes for call in seen.calls],
        "returned": last.returned,
        "differentiated": list(last.backwards),
    }


def _summary(seen: Watched, findings: list[Finding]) -> str:
    if findings:
        return findings[0].message
    if not seen.uses:
        return f"no optimizer was seen to step in {len(seen.calls)} calls"
    steps, passes = len(seen.uses), sum(len(call.backwards) for call in seen.calls)
    return f"{len(seen.calls)} calls, {passes} backward passes, {steps} steps: each gradient used once"
