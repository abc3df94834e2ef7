"""The part of training-loop that judges the order of things in the user's own step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Source
from stabcheck.experiments import _training_loop_clipping, _training_loop_habits, _training_loop_ownership
from stabcheck.experiments._training_loop_habits import FEW, OFTEN
from stabcheck.stats import median

if TYPE_CHECKING:
    from stabcheck.recording import Recording
    from stabcheck.trial.loop.events import Use
    from stabcheck.trial.loop.watched import Watched

REACH = 4
"""Calls in a row whose losses must reach back to the same early call: windows of back-propagation through time end."""
BELIEVED = 32
"""Graphs that are alive at once before they are said to pile up; a bounded window of the last few is none of our business."""

LEFT_OVER = Rule(
    "SC1501",
    "gradients-not-cleared",
    "fail",
    message="{optimizer} steps on old gradients: {what}; in call {call} the batch gives a gradient of norm {fresh:.3g}, "
    "and with what was left in .grad ({old:.3g}) it becomes {together:.3g}; this is so in {count} of {uses} steps",
    fix="call {remedy}",
)
CLEARED = Rule(
    "SC1502",
    "gradients-cleared-before-step",
    "fail",
    message="{optimizer} never finds a gradient: {how}, so in {uses} steps it moves no weight (norm {raw:.3g} after "
    "backward, 0 at the step)",
    fix="keep the order zero_grad(), backward(), step()",
)
DELAYED = Rule(
    "SC1503",
    "step-before-backward",
    "warn",
    message="{optimizer} steps before backward() in each of {uses} steps: the weights move by the gradient of the "
    "previous batch",
    fix="call step() after backward(), and zero_grad() after step() or before backward()",
)
NEVER_STEPPED = Rule(
    "SC1504",
    "optimizer-never-steps",
    "fail",
    message="in {calls} calls of train_step {what}, and no weight changed",
    fix="call loss.backward() and then optimizer.step() in train_step{hint}",
)
NO_HISTORY = Rule(
    "SC1510",
    "backward-reaches-no-parameter",
    "fail",
    message="in {calls} calls of train_step, backward() brought no gradient to any of the model's {count} trainable "
    "parameters: {why}",
    fix="call backward() on the loss itself, computed from this model's outputs without .detach(), .data, .item(), "
    "torch.tensor(...) or no_grad()",
)
GROWING_GRAPH = Rule(
    "SC1511",
    "growing-autograd-graph",
    "fail",
    message="the loss of call {call} still reaches back to call {oldest}: its autograd graph has {now} nodes and had "
    "{then}, so time and memory grow with every step",
    fix="detach what is carried from one step to the next (hidden states, memories, averages): state = state.detach()",
)
GRAPHS_KEPT = Rule(
    "SC1512",
    "graphs-kept-in-memory",
    "fail",
    message="after {calls} calls of train_step the autograd graphs of {alive} losses are still in memory, which grows "
    "with every step",
    fix="keep numbers, not tensors with a graph: total += loss.item() or losses.append(loss.detach())",
)
PUT_BACK = Rule(
    "SC1513",
    "update-undone",
    "fail",
    message="{optimizer} changes the weights, but at the end of each of {calls} calls every weight is what it was before",
    fix="look for what writes to the weights after step(): load_state_dict, a restored copy, an average that is "
    "swapped in",
)
SCHEDULE_FIRST = Rule(
    "SC1514",
    "scheduler-before-optimizer",
    "warn",
    message="{scheduler} steps before {optimizer} in each of {uses} steps: the first rate of the schedule is never used",
    fix="call scheduler.step() after optimizer.step()",
)
RULES = (
    *_training_loop_habits.RULES,
    *_training_loop_clipping.RULES,
    LEFT_OVER, CLEARED, DELAYED, NEVER_STEPPED, NO_HISTORY, GROWING_GRAPH, GRAPHS_KEPT, PUT_BACK,
    SCHEDULE_FIRST,
)  # fmt: skip


class Judge:
    """What is wrong with the order of things in the user's own step."""

    def __init__(self, seen: Watched, source: Source | None, recording: Recording | None) -> None:
        self.seen, self.source, self.recording = seen, source, recording
        self.by_optimizer: dict[int, list[Use]] = {}
        for use in seen.uses:
            self.by_optimizer.setdefault(use.optimizer, []).append(use)

    def findings(self, has_owner_fault: bool) -> Iterator[Finding]:
        """Those that follow from an earlier one are left out."""
        stuck = [] if has_owner_fault else list(self._stuck())
        yield from stuck
        if stuck:
            return
        habits = list(_training_loop_habits.judge(self.seen, self.source))
        yield from habits
        if habits:
            return
        left = list(self._left_over())
        yield from left
        yield from self._graphs()
        yield from _training_loop_clipping.judge(self.seen, self.source, self.recording, gradients_pile_up=bool(left))
        yield from self._order()

    def _at(self, use: Use) -> Source | None:
        """The line of the step, in a loop of the user's."""
        return (use.line or self.source) if self.source else None

    def _stuck(self) -> Iterator[Finding]:
        """Nothing can be learnt."""
        seen, calls = self.seen, self.seen.calls
        moved = any(call.moved for call in calls)
        backwards = all(call.backwards for call in calls)
        trainable = sum(p.requires_grad for p in seen.session.model.parameters())
        reached = any(call.reached for call in calls)
        has_gradient = any(use.norm for use in seen.uses)
        if backwards and trainable and not reached and not moved and not has_gradient:
            bare = all(call.roots_without_history for call in calls)
            why = (
                "the tensor it is called on has no history, so the way from the loss to the model is cut before it"
                if bare
                else "the loss comes from other tensors than this model's"
            )
            yield NO_HISTORY.at(None, source=self.source, calls=len(calls), count=trainable, why=why)
            return
        if seen.stalled and not moved and not any(call.scaler_steps for call in calls):
            what = (
                "no optimizer was stepped" if backwards else "neither backward() nor an optimizer's step() was called"
            )
            every = seen.session.setup.accumulate_steps
            hint = f", here once in {every} calls" if every > 1 else ""
            yield NEVER_STEPPED.at(None, source=self.source, calls=len(calls), what=what, hint=hint)
            return
        for index, uses in self.by_optimizer.items():
            raw = [use.raw for use in uses if use.raw]
            if len(uses) < 2 or any(use.norm or use.in_closure for use in uses) or len(raw) < len(uses) - 1:
                continue
            how = (
                "step() comes before backward(), on gradients that were just cleared"
                if all(use.before_backward for use in uses if use.raw)
                else "they are cleared between backward() and step()"
            )
            yield CLEARED.at(
                None,
                source=self._at(uses[-1]),
                optimizer=seen.optimizers[index],
                how=how,
                uses=len(uses),
                raw=median(raw),
            )
            return
        undone = [call for call in calls if call.stepped_then_undone]
        if len(undone) >= FEW and len(undone) == sum(bool(call.uses) for call in calls):
            yield PUT_BACK.at(None, source=self.source, optimizer=seen.optimizers[0], calls=len(undone))

    def _left_over(self) -> Iterator[Finding]:
        for index, uses in self.by_optimizer.items():
            bad = [use for use in uses if use.leftovers]
            if not bad or len(bad) < OFTEN * (len(uses) - 1):
                continue
            worst = bad[-1]
            shares = worst.leftovers
            old, fresh, together = (
                math.hypot(*values) for values in zip(*((s.old, s.fresh, s.together) for s in shares), strict=True)
            )
            again, partial = shares[0].used_before, len(shares) < self.seen.holds[index]
            what = (
                "those of the steps before are still in .grad and count again"
                if again
                else "another backward() after its last step left its own in .grad, and they are added"
            )
            remedy = "zero_grad() at the start of the closure" if worst.in_closure else (
                "zero_grad() between the step and the next backward()" if again else
                f"zero_grad() of {self.seen.optimizers[index]} right before the backward() of its own loss"
            )  # fmt: skip
            yield LEFT_OVER.at(
                _training_loop_ownership.common(tuple(s.name for s in shares)) or None if partial else None,
                source=self._at(worst),
                optimizer=self.seen.optimizers[index],
                what=what,
                call=worst.call,
                fresh=fresh,
                old=old,
                together=together,
                count=len(bad),
                uses=len(uses),
                remedy=remedy,
            )
            return

    def _graphs(self) -> Iterator[Finding]:
        calls = self.seen.calls
        late = calls[-REACH:]
        first = max((c.oldest if c.oldest is not None else len(calls) for c in late), default=len(calls))
        if len(calls) > REACH + 1 and first <= 1:
            last = calls[-1]
            yield GROWING_GRAPH.at(
                None, source=self.source, call=last.index, oldest=first, now=last.nodes, then=calls[0].nodes
            )
        elif self.seen.graphs_alive >= max(BELIEVED, len(calls) - 1):
            yield GRAPHS_KEPT.at(None, source=self.source, calls=len(calls), alive=self.seen.graphs_alive)

    def _order(self) -> Iterator[Finding]:
        seen = self.seen
        twice = [use for use in seen.uses if use.twice]
        if len(twice) >= max(FEW, OFTEN * len(seen.calls)):
            last = twice[-1]
            before = next(u for u in reversed(seen.calls[last.call].uses) if u is not last)
            names = [seen.optimizers[use.optimizer] for use in (before, last)]
            how = (
                f"{names[0]} is stepped twice after one backward()"
                if before.optimizer == last.optimizer
                else f"two optimizers hold them ({names[0]} and {names[1]})"
            )
            yield _training_loop_ownership.TWICE.at(
                last.twice[0],
                source=self._at(last),
                count=len(last.twice),
                how=how,
                advice="step once after each backward(), with optimizers that share no parameter",
            )
        for index, uses in self.by_optimizer.items():
            late = [use for use in uses if use.call and not use.in_closure]
            if len(late) < FEW:
                continue
            kind = seen.optimizers[index]
            if all(use.before_backward and use.norm and not use.leftovers and not use.twice for use in late):
                yield DELAYED.at(None, source=self._at(late[-1]), optimizer=kind, uses=len(late))
            elif all(use.scheduled_before for use in late):
                scheduler = type(seen.session.setup.scheduler).__name__
                yield SCHEDULE_FIRST.at(None, source=self.source, scheduler=scheduler, optimizer=kind, uses=len(late))
