"""Micro-batches that are meant to act as one large batch are lost, counted too often, or stepped with one by one.

## What it looks at
Your own train_step over a few windows of accumulate_steps calls (or over the parts into which one call cuts its batch). Which
backward passes are in the gradient when the optimizer uses it; after how many calls it steps; and how long that gradient
is against the mean of the same micro-batches' gradients at the same weights with the same randomness. BatchNorm sees
micro-batches either way, so it is no excuse and no fault. Where labels are ignored or padded, the mean of means is compared with
the mean over all labels that count.

## Why it matters
A missing division multiplies the learning rate by the number of micro-batches; gradients cleared between them throw all
but the last away, and the run pays for data that it does not use. Both look like another batch size.

## What to do
(loss / accumulate_steps).backward() at each call; step, scheduler step and zero_grad only at the last one of each window. Declare
accumulate_steps, so that schedules are sized in optimizer steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Outcome, Rule, Skip, Source, experiment
from stabcheck.reading import SCALE_FREE

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.loop.windows import Windows

NEAR = 0.2
"""Relative distance from the exact factor. With the same weights, samples and randomness it is 1e-6; a regulariser that only
the step adds, or label smoothing, moves it by some per cent (0.905 with smoothing 0.1)."""
SAME_DIRECTION = 0.9
"""Cosine below which the step differentiates something else than the set-up's loss, and nothing is said of its scale."""
WHOLE = 0.9
"""Share of a batch's samples that the parts into which a step cuts it make up together."""

THROWN = Rule(
    "SC2201",
    "micro-batches-discarded",
    "fail",
    message="of {passes} micro-batches only {kept} is left in the gradient when {optimizer} steps: the others are "
    "cleared before, so {share:.0%} of the data is wasted",
    fix="call zero_grad() once per step, after it or before the first micro-batch, and not between backward passes",
)
UNDIVIDED = Rule(
    "SC2202",
    "accumulated-gradient-misscaled",
    "fail",
    message="the gradient that {optimizer} uses is {factor:.3g} times the mean over its {count} micro-batches: {how}",
    fix="{advice}",
)
EVERY_CALL = Rule(
    "SC2203",
    "step-at-every-micro-batch",
    "fail",
    message="accumulate_steps is {declared}, but {optimizer} steps at every call of train_step, {calls} of {calls}: "
    "nothing is accumulated",
    fix="step and clear the gradients only once in {declared} calls, or declare accumulate_steps=1",
    why="The model trains with batches that are smaller than those its rate was chosen for.",
)
OTHER_PACE = Rule(
    "SC2204",
    "accumulation-window-mismatch",
    "warn",
    message="accumulate_steps is {declared}, but {optimizer} steps once in {gap} calls of train_step",
    fix="make them agree: the schedule and the planned number of steps are sized by accumulate_steps",
    why="The rate and the schedule were chosen for another size of batch than the one that is trained with.",
)
UNDECLARED = Rule(
    "SC2205",
    "accumulation-undeclared",
    "warn",
    message="{optimizer} steps only once in {gap} calls of train_step, but accumulate_steps is not given: the planned "
    "number of optimizer steps is taken {gap} times too high",
    fix="add accumulate_steps={gap} to the set-up",
    why="The length of the run, the schedule and the size of a batch are reckoned with another number of steps.",
)

CLIPPED = Rule(
    "SC2206",
    "clipped-while-accumulating",
    "warn",
    message="the sum of gradients is clipped before it is complete: {count} of {total} micro-batches without a step of {optimizer} "
    "are clipped to {threshold:.3g}, the last from {norm:.3g}; the first ones of a window are shrunk again and again, "
    "and the last weighs most",
    fix="clip once, right before the step, when all micro-batches are in the gradient",
)
WEIGHTED = Rule(
    "SC2207",
    "micro-batches-weighted-by-position",
    "fail",
    message="the {count} micro-batches behind one step of {optimizer} count {shares} times in its gradient, by their place in the "
    "window, and not 1/{count} each: they are worth {data:.3g} equal ones",
    fix="call (loss / {count}).backward() once for each micro-batch, on its own loss; a running sum of losses, sent backward each "
    "time, counts the first ones again and again",
    why="The step follows some of the data more than the rest, and its length is not that of their mean.",
)
OFTEN = 0.5
"""Share of the micro-batches that the clipping must really have shortened: a guard that hardly ever acts is no matter."""


@experiment(
    title="Accumulates gradients",
    about=("train_step",),
    rules=(THROWN, UNDIVIDED, EVERY_CALL, OTHER_PACE, UNDECLARED, CLIPPED, WEIGHTED),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Watch windows of micro-batches in the set-up's own step."""
    from stabcheck.trial.loop.windows import watch

    setup = bench.shared().setup
    if setup.train_step is None:
        raise Skip(
            "accumulation is stabcheck's own in the textbook loop: add 'train_step' to have yours looked at"
            if setup.accumulate_steps > 1
            else "no accumulation: accumulate_steps is 1 and there is no 'train_step'"
        )
    seen = watch(bench)
    if any(use.in_closure for use in seen.uses):
        raise Skip(f"{seen.optimizer} evaluates a closure at each step and accumulates nothing")
    parts = _parts(seen)
    if seen.declared == 1 and seen.gap == 1 and parts < 2:
        raise Skip(
            "no accumulation: accumulate_steps is 1, and every call of train_step steps on the gradients of its own batch"
        )
    findings = tuple(_judge(seen, parts, bench.source(setup.train_step)))
    outcome = Outcome(findings[0].message if findings else _summary(seen, parts), findings, _measured(seen, parts))
    if seen.scale is None and not findings:
        outcome = outcome.but_not("the scale of the accumulated gradient", seen.why_not)
    elif seen.scale is not None and seen.scale.cosine < SAME_DIRECTION:
        why = f"train_step differentiates something else than the set-up's loss (cosine {seen.scale.cosine:.2f})"
        outcome = outcome.but_not("the scale of the accumulated gradient", why)
    if seen.tail:
        outcome = outcome.but_not(
            f"what becomes of the last {seen.tail} micro-batches of an epoch",
            f"the loader's {seen.session.steps_per_epoch} batches are no multiple of accumulate_steps",
        )
    return outcome


def _parts(seen: Windows) -> int:
    """Into how many parts each call cuts its batch; 1 if it does not."""
    lengths = set()
    for call in seen.calls:
        parts = [n for n in call.parts if n]
        is_cut = len(parts) > 1 and max(parts) < call.samples and WHOLE <= sum(parts) / call.samples <= 1
        if not is_cut or call.attacked:
            return 1
        lengths.add(len(parts))
    return min(lengths, default=1)


def _judge(seen: Windows, parts: int, source: Source | None) -> Iterator[Finding]:
    """One fault at a time: what is thrown away or never accumulated has no scale."""
    single = all(len(call.backwards) == 1 and not call.attacked for call in seen.calls)
    later = seen.uses[1:] or seen.uses
    if (parts > 1 or single) and all(use.kept < use.backwards and use.norm for use in later):
        last = later[-1]
        lost = 1 - last.kept / last.backwards
        yield THROWN.at(
            None, source=source, passes=last.backwards, kept=last.kept, optimizer=seen.optimizer, share=lost
        )
        return
    if single and seen.declared > 1 and seen.gap == 1:
        yield EVERY_CALL.at(
            None, source=source, declared=seen.declared, optimizer=seen.optimizer, calls=len(seen.calls)
        )
        return
    accumulates = all(use.kept == seen.gap for use in seen.uses[1:]) and not seen.every_call and single
    if accumulates and seen.gap is not None and seen.gap != seen.declared and len(seen.uses) > 1:
        rule = UNDECLARED if seen.declared == 1 else OTHER_PACE
        yield rule.at(None, source=source, declared=seen.declared, optimizer=seen.optimizer, gap=seen.gap)
    if accumulates and seen.gap is not None and seen.gap > 1:
        yield from _clipped_early(seen, source)
    if accumulates or parts > 1:
        yield from _scale(seen, parts, source)


def _clipped_early(seen: Windows, source: Source | None) -> Iterator[Finding]:
    """All passes stay in the gradient, yet it is clipped in calls that end without a step."""
    between = [call for call in seen.calls if not call.uses]
    clips = [next((c for c in call.clips if c.fresh and c.norm > c.threshold > 0), None) for call in between]
    acting = [clip for clip in clips if clip is not None]
    if acting and len(acting) >= OFTEN * len(between):
        last = acting[-1]
        yield CLIPPED.at(
            None,
            source=source,
            count=len(acting),
            total=len(between),
            optimizer=seen.optimizer,
            threshold=last.threshold,
            norm=last.norm,
        )


def _scale(seen: Windows, parts: int, source: Source | None) -> Iterator[Finding]:
    count = (seen.gap or 1) * parts
    scale = seen.scale
    if scale is not None and scale.shares and parts == 1:
        total, squares = sum(scale.shares), sum(share**2 for share in scale.shares)
        yield WEIGHTED.at(
            None,
            source=source,
            optimizer=seen.optimizer,
            count=count,
            shares=", ".join(f"{round(share, 4) + 0.0:.2g}" for share in scale.shares),
            data=total**2 / squares,
        )
        return
    if scale is None or scale.cosine < SAME_DIRECTION or count < 2:
        return
    if abs(scale.factor / count - 1) < NEAR and not (scale.sums and parts == 1):
        severity = _severity(seen, count)
        if severity is not None:
            yield UNDIVIDED.at(
                None,
                source=source,
                severity="fail" if severity == "fail" and (scale.sums is False or parts > 1) else "warn",
                optimizer=seen.optimizer,
                factor=scale.factor,
                count=count,
                how=f"the loss is not divided by {count}, which multiplies the learning rate by as much",
                advice=f"call (loss / {count}).backward(), or lower the learning rate accordingly",
            )
    elif abs(scale.factor * count - 1) < NEAR:
        yield UNDIVIDED.at(
            None,
            source=source,
            severity="warn" if seen.optimizer in SCALE_FREE else "fail",
            optimizer=seen.optimizer,
            factor=scale.factor,
            count=count,
            how=f"it is divided by {count} twice over, which divides the learning rate by as much",
            advice=f"divide by {count} once: either the loss or the gradients",
        )


def _severity(seen: Windows, count: int) -> str | None:
    """How much a gradient that is `count` times too long matters to this optimizer."""
    clips = [c for c in seen.calls[-1].clips if c.fresh and not c.by_value]
    if any(c.norm > c.threshold * count for c in clips):
        return None  # the clipping makes both equally long
    if seen.optimizer not in SCALE_FREE:
        return "fail"
    return "warn" if any(c.norm > c.threshold for c in clips) else None


def _measured(seen: Windows, parts: int) -> dict[str, Any]:
    measured: dict[str, Any] = {
        "declared": seen.declared,
        "calls_per_step": seen.gap,
        "parts_per_call": parts,
        "backward_passes_in_gradient": [use.kept for use in seen.uses],
        "micro_batches_left_at_end_of_epoch": seen.tail,
    }
    if seen.scale is not None:
        measured |= {"factor": seen.scale.factor, "cosine": seen.scale.cosine}
        if seen.scale.tokens:
            measured |= {"labels_that_count": list(seen.scale.tokens), "mean_of_means_error": seen.scale.token_error}
    return measured


def _summary(seen: Windows, parts: int) -> str:
    text = f"{seen.optimizer} steps {f'once in {seen.gap} calls' if seen.gap and seen.gap > 1 else 'at every call'}"
    if parts > 1:
        text += f", each in {parts} parts"
    if seen.scale is not None and seen.scale.cosine >= SAME_DIRECTION:
        text += f"; its gradient is {seen.scale.factor:.3g} times the mean of the micro-batches"
        if seen.scale.token_error is not None:
            text += f", which is {seen.scale.token_error:.1%} off the mean over all labels that count"
    return text
