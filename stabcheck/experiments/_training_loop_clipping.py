"""The part of training-loop that judges where gradients are clipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Source
from stabcheck.experiments._training_loop_habits import FEW, OFTEN
from stabcheck.stats import joint_norm

if TYPE_CHECKING:
    from stabcheck.recording import Recording
    from stabcheck.trial.loop.events import Clip
    from stabcheck.trial.loop.watched import Watched

CLIP_IDLE = Rule(
    "SC1508",
    "clipping-without-effect",
    "fail",
    message="clipping at {threshold:.3g} has no effect: it {how}; the gradients that are stepped with have a norm of up "
    "to {norm:.3g}",
    fix="{advice}",
)
CLIP_SCALED = Rule(
    "SC1509",
    "clipping-of-scaled-gradients",
    "fail",
    message="gradients are clipped at {threshold:.3g} while they are still multiplied by the GradScaler's {scale:.6g}: "
    "what is stepped with has a norm of {meant:.2g} at most, {ratio:.2g} times less than without the mistake",
    fix="call scaler.unscale_(optimizer) after backward() and before clipping",
)
CLIP_PART = Rule(
    "SC1523",
    "clipping-of-a-part",
    "fail",
    message="clip_grad_norm is {threshold:.3g}, but train_step clips only {given} of the {count} gradients that {optimizer} steps "
    "with: the others, such as that of {example}, have a norm of up to {norm:.3g} together",
    fix="clip all that the optimizer holds: clip_grad_norm_(model.parameters(), {threshold:g})",
    why="The steps that the clipping was to prevent are still made, by the parameters that it is not given.",
)
BEYOND = 1.05
"""Times the declared threshold that the gradients left out must have by themselves: then no clipping of the whole was made."""
RULES = (CLIP_IDLE, CLIP_SCALED, CLIP_PART)


def judge(
    seen: Watched, source: Source | None, recording: Recording | None, *, gradients_pile_up: bool
) -> Iterator[Finding]:
    """Clipping that cannot do what it was meant for; where gradients pile up, none of them is fresh."""
    clips = [c for call in seen.calls[1:] for c in call.clips if 0 < c.threshold < math.inf]
    scaled = [c for c in clips if c.scale > 1 and c.threshold < c.scale and c.norm > c.threshold]
    if len(scaled) >= OFTEN * len(clips) and len(scaled) >= FEW:
        last = scaled[-1]
        meant = last.threshold / last.scale
        ratio = min(last.norm / last.scale, last.threshold) / meant
        yield CLIP_SCALED.at(None, source=source, threshold=last.threshold, scale=last.scale, meant=meant, ratio=ratio)
    elif len(clips) >= FEW and not any(c.fresh for c in clips) and not gradients_pile_up:
        yield _idle(seen, source, clips)
    else:
        yield from _partial(seen, source, recording)


def _partial(seen: Watched, source: Source | None, recording: Recording | None) -> Iterator[Finding]:
    """A clipping that is given a part of what the set-up says is clipped."""
    threshold = seen.session.setup.clip_grad_norm
    scaled = any(call.scaler_steps or any(c.scale > 1 for c in call.clips) for call in seen.calls)
    late = [use for use in seen.uses if use.call and use.unclipped is not None]
    if not threshold or not late or scaled or any(use.in_closure for use in late):
        return
    reached = set().union(*(call.reached for call in seen.calls))
    left_out = reached.difference(*(call.clipped for call in seen.calls))
    norms = [use.unclipped for use in late if use.unclipped is not None]
    if recording is not None:
        parts = [p.clipped_norm for p in recording.parameters if p.name in left_out]
        norms += [norm for step in zip(*parts, strict=True) if (norm := joint_norm(step)) is not None]
    beyond = [norm for norm in norms if norm > BEYOND * threshold]
    if left_out and len(beyond) >= FEW:
        example = min(left_out)
        yield CLIP_PART.at(
            example,
            source=source,
            threshold=threshold,
            given=len(reached) - len(left_out),
            count=len(reached),
            optimizer=seen.optimizers[late[0].optimizer],
            example=example,
            norm=max(beyond),
        )


def _idle(seen: Watched, source: Source | None, clips: list[Clip]) -> Finding:
    last = clips[-1]
    norm = max((use.norm for use in seen.uses), default=0.0)
    if last.given:
        how = "comes after the optimizer's step, when the gradients have been used"
        advice = "clip between backward() and step()"
    else:
        how = "is given nothing that has a gradient"
        advice = (
            "clip between backward() and step(), and pass model.parameters() anew at each call: a generator that was "
            "kept is empty after its first use"
        )
    return CLIP_IDLE.at(
        None,
        source=source,
        severity="fail" if norm > last.threshold or last.by_value else "warn",
        threshold=last.threshold,
        how=how,
        norm=norm,
        advice=advice,
    )
