"""The part of training-loop that judges where gradients are clipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Source
from stabcheck.experiments._training_loop_habits import FEW, OFTEN

if TYPE_CHECKING:
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
RULES = (CLIP_IDLE, CLIP_SCALED)


def judge(seen: Watched, source: Source | None, *, gradients_pile_up: bool) -> Iterator[Finding]:
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
