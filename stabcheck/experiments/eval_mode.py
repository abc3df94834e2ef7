"""Validation that measures something else than the trained model, or changes it.

## What it looks at
The set-up trains a few steps; then your own `validate` runs under observation (about ten times, once if it is long), and
training goes on for a step. Seen are the mode of every module in every forward (models in closures, such as an EMA copy,
included), dropout functions that stay active in eval mode, parameters, buffers, gradients, optimizer state and modes
before and after, what the loaders give, graphs that pile up, and the numbers that come out: a second time, with
every module in eval mode, and with random, right or exchanged outputs in place of the model's. With BatchNorm the loss
of training batches is compared between the two modes after 30 steps.
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
from typing import TYPE_CHECKING

from stabcheck.check import Finding, NotChecked, Outcome, Rule, experiment
from stabcheck.experiments import _eval_mode_aftermath, _eval_mode_answers, _eval_mode_batch_norm, _eval_mode_modes
from stabcheck.experiments._eval_mode_aftermath import named

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.validation.rehearsal import Rehearsal

PILED_UP = 4
"""Graphs of earlier batches alive at once from which they count as kept: GAN or contrastive losses hold two or three."""

ROUNDING = 1e-5
"""Relative difference of two results that summing in another order makes."""


EVAL_TRAINING = Rule(
    "SC0608",
    "trained-in-eval-mode",
    "warn",
    message="train_step runs the whole model in eval mode: {what} will not act as in training{contradiction}",
    fix="{advice}",
    why="The model trains without dropout and with frozen statistics; the loss looks all the better for it.",
)
NOTHING = Rule(
    "SC0609",
    "nothing-validated",
    "fail",
    message="{where} ran no model: {why}",
    fix="check that the validation data is not empty and that its loop is reached",
    why="Early stopping, the choice of a checkpoint and every comparison rest on a number that nothing was measured for.",
)
TRAINING_DATA = Rule(
    "SC0610",
    "validates-training-data",
    "fail",
    message="validate() iterates over the training data ({samples} samples) and {other}",
    fix="iterate over the validation loader in validate()",
    why="A score on the training data measures memory: it tells nothing about new data.",
)
NOT_FINITE = Rule(
    "SC0611",
    "validation-not-finite",
    "fail",
    message="{where} returns {value} while the training loss is {loss:.4g}",
    fix="look for an average over no samples, log(0), or NaN in the validation data",
    why="A comparison with NaN is always false: early stopping and the choice of the best checkpoint never act, or act at once.",
)
GRAPHS = Rule(
    "SC0612",
    "graphs-kept-by-validation",
    "warn",
    message="validate() keeps the autograd graphs of {count} batches alive at once: memory grows with every batch",
    fix="put validate() under torch.no_grad(), or sum up loss.item() in place of loss",
    why="Memory grows with every validated batch, until the run is killed for it.",
)
STALE = Rule(
    "SC0615",
    "validates-another-model",
    "warn",
    message="validate() runs a model ({kind}) that shares no parameter with the set-up's model, and training on did not change it",
    fix="validate the model that is trained, or an average of it that train_step updates",
    why="The numbers tell of weights that are no longer trained: they stay the same or lag behind.",
)


@experiment(
    title="Eval mode for validation",
    about=("validate", "val_loader"),
    rules=tuple(sorted((
        EVAL_TRAINING, NOTHING, TRAINING_DATA, NOT_FINITE, GRAPHS, STALE,
        *_eval_mode_modes.RULES, *_eval_mode_aftermath.RULES, *_eval_mode_answers.RULES, *_eval_mode_batch_norm.RULES,
    ), key=lambda rule: rule.code)),
)  # fmt: skip
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Train a little, validate under observation, train on."""
    from stabcheck.trial.validation.rehearse import rehearse

    return _Judge(bench, rehearse(bench)).outcome()


class _Judge:
    """From what was seen to findings."""

    def __init__(self, bench: Bench, seen: Rehearsal) -> None:
        self.bench, self.seen, self.run = bench, seen, seen.run
        self.where = "validate()" if seen.own else "the textbook validation"
        self.source = bench.source(seen.setup.validate)

    def outcome(self) -> Outcome:
        seen, run = self.seen, self.run
        aftermath = _eval_mode_aftermath.judge(seen, self.where, self.source)
        modes = _eval_mode_modes.judge(self.bench, seen, self.where, self.source)
        answers = _eval_mode_answers.judge(seen, self.source)
        findings = [*modes, *aftermath, *self.training(), *self.data(), *answers]
        if seen.batch_norm is not None:
            findings += _eval_mode_batch_norm.judge(seen.batch_norm, self.bench.kinds)
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
                "batch_norm": _eval_mode_batch_norm.levels(seen.batch_norm) if seen.batch_norm else None,
            },
            not_checked=(*seen.not_checked, *self.not_checked()),
        )

    def training(self) -> Iterator[Finding]:
        seen, asleep = self.seen, self.seen.asleep()
        if not asleep:
            return
        # Whoever switches to training mode when validation is over means to train in it.
        undone = seen.eval_in_step and seen.wakes_model
        yield EVAL_TRAINING.at(
            asleep[0].path or None,
            source=self.bench.source(seen.setup.train_step),
            severity="fail" if undone else None,
            what=named(asleep),
            contradiction=", although validate() puts the model back into training mode" if undone else "",
            advice="Call model.train() before the forward pass; eval() belongs into the validation."
            if seen.eval_in_step
            else "Call model.train() before training; models loaded by from_pretrained() come in eval mode.",
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
        if run.forwards and seen.repeat is not None and not seen.repeat.forwards:
            why = "the second time: its data can be read only once"
            yield NOTHING.at(None, source=self.source, where=self.where, why=why)
        # All that went through a model came from the training loader: nothing else was validated on the side.
        if seen.own and run.loaders_known and train and not others and run.samples and run.samples % train == 0:
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
            yield STALE.at(None, source=self.source, kind=type(root).__name__)

    # --- words

    def summary(self, findings: list[Finding]) -> str:
        seen, run = self.seen, self.run
        if findings:
            more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
            return re.split(r"[:;.] ", findings[0].message)[0].rstrip(".") + more
        what = "validate()" if seen.own else "textbook validation"
        notes = [f"{what} after {seen.steps} steps, {run.forwards} forwards"]
        switches = [v for v in run.visits if v.switch]
        if not switches:
            notes.append("no module depends on the mode")
        elif not any(v.training for v in switches):
            notes.append("all in eval mode")
        elif run.passes_per_input >= _eval_mode_modes.MONTE_CARLO_PASSES:
            notes.append(f"dropout averaged over {run.passes_per_input:.0f} passes")
        else:
            notes.append("training mode makes no difference")
        if seen.own and run.with_gradients:
            notes.append("gradients enabled")
        again = seen.repeat.numbers if seen.repeat else {}
        if any(not math.isclose(run.numbers[k], again[k], rel_tol=ROUNDING) for k in run.numbers.keys() & again.keys()):
            notes.append("the result varies with the random numbers")
        return ", ".join(notes)

    def not_checked(self) -> Iterator[NotChecked]:
        seen = self.seen
        if not seen.own:
            data = "" if seen.setup.val_loader is not None else ", and 'val_loader': training batches were used"
            yield NotChecked("your own validation loop", f"the textbook one was run instead: add 'validate'{data}")
        elif seen.setup.train_step is None and seen.changes.modes and any(v.switch for v in self.run.visits):
            yield NotChecked(
                "whether training goes back to training mode",
                "validate() leaves other modes than it found, and no 'train_step' shows whether your loop calls model.train()",
            )
