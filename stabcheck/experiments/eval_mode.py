"""Validation that measures something else than the trained model, or changes it.

## What it looks at
The set-up trains a few steps; then your own `validate` runs under observation, and training goes on for a step. Seen are
the mode of every module in every forward (models in closures, such as an EMA copy, included), dropout functions that
stay active in eval mode, parameters, buffers, gradients, optimizer state and modes before and after, what the
loaders give, graphs that pile up, and the numbers that come out: a second time, and with every module in eval mode.
With BatchNorm the loss of training batches is compared between the two modes after 30 steps.
Modules without a mode, Monte-Carlo dropout, frozen BatchNorm, sampling models and weights that are swapped and put
back are no faults. Without `validate` the textbook validation stands in for it, and only the model is tested.

## Why it matters
Every decision of a run rests on its validation numbers. Dropout left on makes them worse than the model; BatchNorm in
training mode makes them depend on the batch and trains on validation data; a model that stays in eval mode afterwards
trains without regularisation for the rest of the run.

## What to do
`model.eval()` and `torch.no_grad()` before validating, `model.train()` after it, `self.training` for every dropout function.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, experiment
from stabcheck.stats import mean

if TYPE_CHECKING:
    from stabcheck.trial.batch_norm import BatchNormReport
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.forward_watch import Activity, Visit
    from stabcheck.trial.rehearsal import Rehearsal

MONTE_CARLO_PASSES = 3
"""Forwards of the same input from which active dropout is taken for Monte-Carlo averaging. Two are common without it:
one for the loss and one for the metric."""

PILED_UP = 4
"""Graphs of earlier batches alive at once from which they count as kept: GAN or contrastive losses hold two or three."""

LEARNT = 0.1
"""Share of its initial value by which training must have lowered the loss, for the modes to be compared against that."""

UNDONE = 0.25
"""Share of the loss reduction that eval mode undoes, from which BatchNorm is blamed. Healthy nets (CNN, ResNet, MLP; SGD,
Adam; batches of 8 to 64; 3 seeds): -0.37 to 0.08. One BatchNorm used in two places: 0.32 to 0.48, and after 300 steps
an accuracy of 17 to 78% in eval mode where batch statistics give 98%."""

RUINED = 0.5
"""Share from which a wrong momentum fails. A prediction of 0.54 to 0.60 (momentum 0.01, 300 planned steps, ResNet) came
true as 60 to 88% accuracy instead of 98%; one of 0.4 as 96%."""

MIN_VALUES = 16
"""Values per channel below which batch statistics are too noisy to be the yardstick: with 2 to 4 samples they favour
training mode by up to 0.6 although eval mode is as good in the end (86.6% against 86.9% accuracy)."""

UNSTEADY = 0.08
"""Share of the loss reduction that a too large momentum may cost. Measured 80 to 160 steps into training with momentum 0.5 to 0.99
and last batches of 3 to 64 (MLP, CNN, ResNet; 3 seeds): from 0.09 on the accuracy fell by 7 to 39 points, up to 0.06 by at most 5."""

USUAL_MOMENTUM = 0.1
"""torch's default; no momentum from here up can be too small."""

_SAYS_MONTE_CARLO = re.compile(r"(?<![a-zA-Z])mc(?![a-z])|MC(?=[A-Z_])|monte|bayes", re.IGNORECASE)

TRAINING_MODE = Rule(
    "SC0601",
    "validation-in-training-mode",
    "fail",
    message="{where} runs {location} ({kind}) in training mode{more}: {effect}. {cause}.{difference}",
    fix="Call eval() on the model at the start of validate(), and train() when it is done.",
)
BEYOND_EVAL = Rule(
    "SC0602",
    "module-beyond-eval",
    "fail",
    message="{location} ({kind}) is in training mode although its model is in eval mode{more}: {why}. While validating, "
    "{effect}.",
    fix="Register modules as attributes or in an nn.ModuleList, and let train() pass the mode on to all of them.",
)
DROPOUT = Rule(
    "SC0603",
    "dropout-ignores-eval",
    "fail",
    message="{name} stays active in eval mode{strength} in {inside}: validation and inference drop activations at random.",
    fix="{advice}",
)
BUFFER = Rule(
    "SC0604",
    "buffer-changed-by-validation",
    "fail",
    message="{where} changes the buffer {location}{more}: the model now holds something of the validation data{proof}.",
    fix="Update buffers in forward only `if self.training`.",
)
WEIGHTS = Rule(
    "SC0605",
    "weights-changed-by-validation",
    "fail",
    message="{how}: the model that trains on is not the one that was validated.",
    fix="{advice}",
)
GRADIENTS = Rule(
    "SC0606",
    "gradients-left-by-validation",
    "fail",
    message="{where} leaves gradients in {count} of {total} parameters: it calls backward(), and {consequence}.",
    fix="Remove backward() from the validation and put it under torch.no_grad().",
)
MODE_LEFT = Rule(
    "SC0607",
    "mode-not-restored",
    "fail",
    message="After validate() train_step runs {location} ({kind}) in {after} mode{more}, before it ran in {before} mode. "
    "Unless your loop sets the mode, {consequence}.",
    fix="{advice}",
)
EVAL_TRAINING = Rule(
    "SC0608",
    "trained-in-eval-mode",
    "warn",
    message="train_step runs the whole model in eval mode: {location} ({kind}){more} does not act in training.",
    fix="Call model.train() before training; models loaded by from_pretrained() come in eval mode.",
)
NOTHING = Rule(
    "SC0609",
    "nothing-validated",
    "fail",
    message="{where} ran no model: {why}.",
    fix="Check that the validation data is not empty and that its loop is reached.",
)
TRAINING_DATA = Rule(
    "SC0610",
    "validates-training-data",
    "fail",
    message="validate() iterates over the training data ({samples} samples) and {other}.",
    fix="Iterate over the validation loader in validate().",
)
NOT_FINITE = Rule(
    "SC0611",
    "validation-not-finite",
    "fail",
    message="{where} returns {value} while the training loss is {loss:.4g}.",
    fix="Look for an average over no samples, log(0), or NaN in the validation data.",
)
GRAPHS = Rule(
    "SC0612",
    "graphs-kept-by-validation",
    "warn",
    message="validate() keeps the autograd graphs of {count} batches alive at once: memory grows with every batch.",
    fix="Put validate() under torch.no_grad(), or sum up loss.item() in place of loss.",
)
DISAGREES = Rule(
    "SC0613",
    "batch-norm-disagrees-with-itself",
    "warn",
    message="On the same training batches the loss is {trained:.4g} with the statistics of the batch and {averaged:.4g} with "
    "statistics averaged over many (before training: {at_start:.4g}): eval mode undoes {share:.0%} of what was learnt. {cause}.",
    fix="{advice}",
)
MOMENTUM = Rule(
    "SC0614",
    "batch-norm-momentum",
    "fail",
    message="momentum={momentum:g} of {location}{more}: {how}, and the loss in eval mode is {loss:.4g} where good statistics "
    "give {averaged:.4g} (before training: {at_start:.4g}).",
    fix="Use momentum=0.1. In torch it is the weight of the new batch: Keras' 0.99 is torch's 0.01.",
)
STALE = Rule(
    "SC0615",
    "validates-another-model",
    "warn",
    message="validate() runs a {kind} that shares no parameter with the set-up's model, and {steps} training steps did not "
    "change it.",
    fix="Validate the model that is trained, or an average of it that train_step updates.",
)


@experiment(
    title="Eval mode for validation",
    rules=(
        TRAINING_MODE, BEYOND_EVAL, DROPOUT, BUFFER, WEIGHTS, GRADIENTS, MODE_LEFT, EVAL_TRAINING, NOTHING, TRAINING_DATA,
        NOT_FINITE, GRAPHS, DISAGREES, MOMENTUM, STALE,
    ),
)  # fmt: skip
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    from stabcheck.trial.rehearse import rehearse

    return _Judge(bench, rehearse(bench)).outcome()


_EFFECTS = {
    "dropout": "activations are dropped at random",
    "statistics": "the statistics of the batch at hand are used, and the running ones take in validation data",
    "custom": "its outputs are not those of eval mode",
}


class _Judge:
    """From what was seen to findings."""

    def __init__(self, bench: Bench, seen: Rehearsal) -> None:
        self.bench, self.seen, self.run = bench, seen, seen.run
        self.where = "validate()" if seen.own else "The textbook validation"
        self.source = bench.source(seen.setup.validate)

    def outcome(self) -> Outcome:
        seen, run = self.seen, self.run
        findings = [*self.modes(), *self.dropout(), *self.state(), *self.afterwards(), *self.data(), *self.batch_norm()]
        return Outcome(
            summary=self.summary(findings),
            findings=tuple(findings),
            measurements={
                "own_validate": seen.own,
                "steps_before": seen.steps,
                "forwards": run.forwards,
                "forwards_with_gradients": run.with_gradients,
                "forwards_per_input": run.passes_per_input,
                "graphs_alive": run.graphs_alive,
                "seconds": round(run.seconds, 3),
                "returned": dict(list(run.numbers.items())[:20]),
                "returned_again": dict(list(seen.repeat.numbers.items())[:20]) if seen.repeat else None,
                "returned_in_eval_mode": dict(list(seen.in_eval.numbers.items())[:20]) if seen.in_eval else None,
                "samples": run.yielded,
                "batch_norm": _levels(seen.batch_norm),
            },
            not_checked=(*seen.not_checked, *self.not_checked()),
        )

    # --- modes

    def modes(self) -> Iterator[Finding]:
        seen = self.seen
        visits = seen.in_training_mode()
        beyond = [v for v in visits if seen.why_beyond(v)]
        if beyond:
            first = beyond[0]
            why, source = seen.why_beyond(first) or ("", None)
            yield BEYOND_EVAL.at(
                first.path,
                source=source or self.bench.source(first.module),
                kind=first.kind,
                more=_more(beyond),
                why=why,
                effect=_EFFECTS[first.switch or "custom"],
            )
        rest = [v for v in visits if v not in beyond]
        if not rest:
            return
        monte_carlo = self.run.passes_per_input >= MONTE_CARLO_PASSES and all(v.switch == "dropout" for v in rest)
        deliberate = all(seen.deliberate(v) for v in rest) and all(v.switch == "dropout" for v in rest)
        if monte_carlo and deliberate:
            return
        first = min(rest, key=lambda v: v.switch == "custom")
        cause, source = seen.why_training(first)
        yield TRAINING_MODE.at(
            first.path,
            source=source or self.source,
            severity="warn" if monte_carlo or deliberate else "fail",
            where=self.where,
            kind=first.kind
            + ("" if first.of_model else f" in a {type(first.root).__name__} beside the set-up's model"),
            more=_more(rest),
            effect=_EFFECTS[first.switch or "custom"],
            cause=cause,
            difference=self.difference(),
        )

    def difference(self) -> str:
        """What validating in eval mode gives instead."""
        here, there = self.run.numbers, self.seen.in_eval.numbers if self.seen.in_eval else {}
        changed = {
            k: abs(here[k] - there[k]) / (abs(there[k]) or 1.0) for k in here if k in there and here[k] != there[k]
        }
        if not changed:
            return ""
        key = max(changed, key=lambda k: changed[k])
        name = f"{key} = " if key else ""
        return f" It returned {name}{here[key]:.4g}; with all modules in eval mode it returns {name}{there[key]:.4g}."

    def dropout(self) -> Iterator[Finding]:
        for act in self.run.activities:
            by_design = self.run.passes_per_input >= MONTE_CARLO_PASSES or any(
                _SAYS_MONTE_CARLO.search(text) for text in (act.kind or "", act.path or "", act.function)
            )
            if by_design or (act.by_hand and not self.seen.noisy_in_eval):
                continue
            yield DROPOUT.at(
                act.path,
                source=act.place if act.users else None,
                name=f"A random mask made with {act.name}()" if act.by_hand else f"{act.name}()",
                strength="" if act.strength is None else f" with probability {act.strength:g}",
                inside=f"{act.path or 'the model'} ({act.kind})" if act.kind else "the loss",
                advice=_advice(act),
                calls=act.count,
            )

    # --- state

    def state(self) -> Iterator[Finding]:
        run, changes = self.run, self.seen.changes
        if run.stepped or changes.parameters:
            count = len(changes.parameters)
            largest = max(changes.parameters, key=lambda n: changes.parameters[n], default=None)
            how = f"{count} parameters differ after {self.where} (the largest change: {largest})"
            yield WEIGHTS.at(
                largest,
                source=self.source,
                how=f"An optimizer stepped in {self.where}" if run.stepped else how,
                advice="Take the optimizer's step out of the validation."
                if run.stepped
                else "Put back the weights that were there before: swap them again after validating, also when it raises.",
                changed=count,
            )
            return
        if not run.stopped:
            yield from self.buffers()
            yield from self.gradients()

    def buffers(self) -> Iterator[Finding]:
        seen = self.seen
        judged = seen.run.visits if seen.estimates_again else seen.in_training_mode()
        explained = {v.path for v in judged if v.switch == "statistics"}
        changed = [n for n in seen.changes.buffers if n.rpartition(".")[0] not in explained]
        saved = bool(changed) and changed[0] in seen.setup.model.state_dict()
        if not changed or seen.buffers_matter is False or (seen.buffers_matter is None and not saved):
            return
        yield BUFFER.at(
            changed[0],
            source=self.source,
            severity="fail" if seen.buffers_matter and saved else "warn",
            where=self.where,
            more=f" and {len(changed) - 1} more" if len(changed) > 1 else "",
            proof=", and its loss on training data is another" if seen.buffers_matter else "",
        )

    def gradients(self) -> Iterator[Finding]:
        left, accumulates = self.seen.changes.gradients, self.seen.accumulates
        if not left or (self.run.wants_input_grad and not accumulates):
            return
        harmless = accumulates is False
        yield GRADIENTS.at(
            left[0],
            source=self.source,
            severity="warn" if harmless else "fail",
            where=self.where,
            count=len(left),
            total=sum(1 for _ in self.seen.setup.model.parameters()),
            consequence="train_step clears them, so they only cost time and memory"
            if harmless
            else "the next training step adds its own to them"
            if accumulates
            else "a loop that calls zero_grad() after the step will add its own to them",
        )

    def afterwards(self) -> Iterator[Finding]:
        seen = self.seen
        flipped = [v for v in seen.flipped if v.switch != "custom" or seen.eval_matters]
        if flipped:
            first = flipped[0]
            off = first.evaluating > 0
            yield MODE_LEFT.at(
                first.path,
                source=self.source,
                kind=first.kind,
                more=_more(flipped),
                before="training" if off else "eval",
                after="eval" if off else "training",
                consequence="training goes on without dropout and batch statistics after the first validation"
                if off
                else "what was frozen trains after the first validation",
                advice="Call model.train() at the end of validate(), or at the start of train_step."
                if off
                else "Put back the mode that each module had, rather than calling train() on the whole model.",
            )
        asleep = [v for v in seen.eval_steps if v.switch != "custom" or seen.eval_matters]
        if asleep and not flipped:
            first = asleep[0]
            yield EVAL_TRAINING.at(
                first.path, source=self.bench.source(seen.setup.train_step), kind=first.kind, more=_more(asleep)
            )

    # --- data and results

    def data(self) -> Iterator[Finding]:
        seen, run = self.seen, self.run
        if run.stopped:
            return
        train = run.yielded.get("train_loader", 0)
        others = {k: n for k, n in run.yielded.items() if k != "train_loader" and n}
        if not run.forwards and not run.touched:
            empty = not others and not train and run.yielded
            why = f"{' and '.join(run.yielded)} gave no batch" if empty else f"it returned {run.returned} at once"
            yield NOTHING.at(None, source=self.source, severity="fail" if empty else "warn", where=self.where, why=why)
            return
        # All that went through a model came from the training loader: nothing else was validated on the side.
        if seen.own and run.loaders_known and train and not others and run.samples % train == 0:
            yield TRAINING_DATA.at(
                None,
                source=self.source,
                severity="fail" if seen.setup.val_loader is not None else "warn",
                samples=train,
                other="never over val_loader" if seen.setup.val_loader is not None else "nothing else",
            )
        if (
            run.numbers
            and not any(map(math.isfinite, run.numbers.values()))
            and seen.losses
            and all(map(math.isfinite, seen.losses))
        ):
            yield NOT_FINITE.at(
                None, source=self.source, where=self.where, value=next(iter(run.numbers.values())), loss=seen.losses[-1]
            )
        if run.graphs_alive >= max(PILED_UP, 0.8 * (run.forwards - 1)) and not run.wants_input_grad:
            yield GRAPHS.at(None, source=self.source, count=run.graphs_alive)
        if seen.follows is False:
            root = run.visits[0].root
            yield STALE.at(None, source=self.source, kind=type(root).__name__, steps=seen.steps)

    # --- BatchNorm

    def batch_norm(self) -> Iterator[Finding]:
        bn = self.seen.batch_norm
        if bn is None:
            return
        learnt = bn.at_start - bn.trained
        if not learnt > LEARNT * abs(bn.at_start):
            return
        levels: dict[str, Any] = {"trained": bn.trained, "averaged": bn.averaged, "at_start": bn.at_start}
        if mean(bn.gaps) > UNDONE * learnt and _clear(bn.gaps) and bn.values >= MIN_VALUES:
            shared = [name for name, uses in bn.uses.items() if uses > 1]
            yield DISAGREES.at(
                shared[0] if shared else None,
                severity="fail" if shared else "warn",
                share=mean(bn.gaps) / learnt,
                cause=f"{shared[0]} is used {bn.uses[shared[0]]} times in one forward, on different distributions, and "
                "has running statistics for their mixture only"
                if shared
                else "The batches differ from each other more than chance explains",
                advice="Give each place a BatchNorm of its own."
                if shared
                else "Shuffle the training data, or use GroupNorm or LayerNorm, which know no modes.",
                **levels,
            )
            return
        yield from self.momentum(bn, learnt, levels)

    def momentum(self, bn: BatchNormReport, learnt: float, levels: dict[str, Any]) -> Iterator[Finding]:
        largest = max(bn.momentum, key=lambda n: bn.momentum[n] or 0.0)
        slowest = max(bn.left, key=lambda n: bn.left[n])
        if bn.erratic is not None and bn.erratic - bn.averaged > UNSTEADY * learnt:
            layer, loss, how = (
                largest,
                bn.erratic,
                "the running statistics are little more than those of the last batch",
            )
        elif bn.at_end is not None and bn.at_end - bn.averaged > UNDONE * learnt:
            layer, loss = slowest, bn.at_end
            how = f"at the end of the run {bn.left[layer]:.0%} of the running statistics will still be their initial 0 and 1"
        else:
            return
        momentum = bn.momentum[layer]
        if momentum is None or (layer == slowest and loss == bn.at_end and momentum >= USUAL_MOMENTUM):
            return
        mild = loss == bn.at_end and loss - bn.averaged <= RUINED * learnt
        alike = sum(m == momentum for m in bn.momentum.values())
        yield MOMENTUM.at(
            layer,
            severity="warn" if mild else "fail",
            momentum=momentum,
            more=f" and {alike - 1} more" if alike > 1 else "",
            how=how,
            loss=loss,
            **levels,
        )

    # --- words

    def summary(self, findings: list[Finding]) -> str:
        seen, run = self.seen, self.run
        what = (
            f"{'validate()' if seen.own else 'textbook validation'} after {seen.steps} steps, {run.forwards} forwards"
        )
        if findings:
            return f"{what}: {findings[0].message.partition(':')[0]}"
        modes = "nothing that depends on the mode" if not any(v.switch for v in run.visits) else "all in eval mode"
        notes = [f"{what}, {modes}"]
        if run.passes_per_input >= MONTE_CARLO_PASSES:
            notes.append(f"{run.passes_per_input:.0f} passes per input")
        if seen.own and run.with_gradients:
            notes.append("gradients enabled")
        if seen.repeat and seen.repeat.numbers != run.numbers:
            notes.append("the result varies with the random numbers")
        return "; ".join(notes)

    def not_checked(self) -> Iterator[NotChecked]:
        seen = self.seen
        if not seen.own:
            data = "" if seen.setup.val_loader is not None else ", and 'val_loader': training batches were used"
            yield NotChecked("your own validation loop", f"the textbook one was run instead: add 'validate'{data}")
        elif seen.setup.train_step is None and seen.changes.modes:
            yield NotChecked(
                "whether training goes back to training mode",
                "validate() leaves other modes than it found, and no 'train_step' shows whether your loop calls model.train()",
            )


def _more(visits: list[Visit]) -> str:
    return f" and {len(visits) - 1} more" if len(visits) > 1 else ""


def _clear(gaps: tuple[float, ...]) -> bool:
    """Whether the mean of paired differences is more than three standard errors above zero."""
    centre = mean(gaps)
    spread = math.sqrt(sum((g - centre) ** 2 for g in gaps) / max(1, len(gaps) - 1))
    return centre > 3 * spread / math.sqrt(len(gaps))


def _advice(act: Activity) -> str:
    if act.by_hand:
        return "Return the input unchanged `if not self.training`."
    if act.name == "scaled_dot_product_attention":
        return "Pass dropout_p=p if self.training else 0.0: this function does not know the mode."
    return f"Pass training=self.training to {act.name}(), whose default is True, or use nn.Dropout."


def _levels(bn: BatchNormReport | None) -> dict[str, Any] | None:
    if bn is None:
        return None
    return {
        "layers": len(bn.momentum),
        "loss_before_training": bn.at_start,
        "loss_with_batch_statistics": bn.trained,
        "loss_with_averaged_statistics": bn.averaged,
        "loss_with_last_batches": bn.erratic,
        "loss_at_end_of_run": bn.at_end,
    }
