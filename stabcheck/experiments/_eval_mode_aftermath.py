"""The part of eval-mode that judges what validating leaves behind: weights, buffers, gradients, modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Source

if TYPE_CHECKING:
    from stabcheck.trial.validation.rehearsal import Rehearsal
    from stabcheck.trial.validation.sightings import Visit

BUFFER = Rule(
    "SC0604",
    "buffer-changed-by-validation",
    "fail",
    message="{where} changes the buffer {location}{more}: the model now holds something of the validation data{proof}",
    fix="update buffers in forward only `if self.training`",
    why="The model that is trained on, and published, then depends on validation data.",
)
WEIGHTS = Rule(
    "SC0605",
    "weights-changed-by-validation",
    "fail",
    message="{how}: the model that trains on is not the one that was validated",
    fix="{advice}",
    why="A model that was trained on its validation data is scored by what it remembers.",
)
GRADIENTS = Rule(
    "SC0606",
    "gradients-left-by-validation",
    "fail",
    message="{where} leaves gradients in {count} of {total} parameters: it calls backward(), and {consequence}",
    fix="remove backward() from the validation and put it under torch.no_grad()",
    why="The next step of training follows gradients of validation data.",
)
MODE_LEFT = Rule(
    "SC0607",
    "mode-not-restored",
    "fail",
    message="after validate() train_step runs {what} in {after} mode; before, it was {before} mode; unless your loop sets the "
    "mode, {consequence}",
    fix="{advice}",
    why="The rest of the run trains without dropout and with frozen statistics; the loss looks all the better for it.",
)
GRAD_OFF = Rule(
    "SC0616",
    "gradients-left-off",
    "fail",
    message="after validate() {what}: training then fails, or goes on without them",
    fix="use `with torch.no_grad():` around the validation, which undoes itself",
    why="Nothing is trained any more after the first validation.",
)
FAILS = Rule(
    "SC0617",
    "fails-after-validation",
    "fail",
    message="after validate() {what} raises {error}; the first time it went well",
    fix="find what validate() leaves changed or used up: data type, device, frozen parameters, an open context, an iterator",
    why="The run ends with an exception after its first validation.",
)

RESEEDED = Rule(
    "SC0618",
    "random-state-reset-by-validation",
    "warn",
    message="validate() sets the random seed: the training after it draws the same numbers each time, and every epoch repeats "
    "the shuffling and the dropout of the last",
    fix="seed inside `with torch.random.fork_rng():`, or give the validation a torch.Generator of its own",
    why="Every epoch after a validation draws the same random numbers: the same order, the same augmentation, the same dropout.",
)

OPTIMIZER = Rule(
    "SC0619",
    "optimizer-changed-by-validation",
    "fail",
    message="{where} changes the optimizer's {what}: the next steps are not those that training would have taken",
    fix="leave the optimizer alone while validating; if it must be switched to another mode, switch it back",
    why="The first validation changes how the rest of the run is trained.",
)

NOT_COPIED = Rule(
    "SC0623",
    "snapshot-not-copied",
    "fail",
    message="the weights that were set aside as {name} are the model's own tensors, no copy: they go on changing with it, and "
    "at the end of the run they are the last weights",
    fix="keep copy.deepcopy(model.state_dict()), or write the best weights to a file at once",
    why="A state_dict is a view of the weights, no copy. What is kept, restored or published as the best is whatever came last.",
)

RULES = (BUFFER, WEIGHTS, GRADIENTS, MODE_LEFT, GRAD_OFF, FAILS, RESEEDED, OPTIMIZER, NOT_COPIED)

_ASLEEP = {
    "dropout": "dropout stays off for the rest of the training",
    "statistics": "its running statistics stay frozen, and are used, for the rest of the training",
    "custom": "what it does in training mode stays off for the rest of the training",
}


def judge(seen: Rehearsal, where: str, source: Source | None) -> Iterator[Finding]:
    """What the validation (called `where`, written at `source`) changed that it must not change."""
    if seen.run.stepped or seen.changes.parameters:
        yield _weights(seen, where, source)
    elif not seen.run.stopped:
        yield from _buffers(seen, where, source)
        yield from _gradients(seen, where, source)
        if seen.changes.optimizer:
            yield OPTIMIZER.at(None, source=source, where=where, what=", ".join(seen.changes.optimizer))
    if not seen.run.stopped:
        yield from _training_on(seen, source)
    for name in seen.not_copied[:1]:
        yield NOT_COPIED.at(None, source=source, name=name)
    if seen.own and seen.reseeds:
        yield RESEEDED.at(None, source=source)


def _weights(seen: Rehearsal, where: str, source: Source | None) -> Finding:
    changed = seen.changes.parameters
    largest = max(changed, key=lambda name: changed[name], default=None)
    if seen.run.stepped:
        how, advice = f"an optimizer stepped in {where}", "take the optimizer's step out of the validation"
    else:
        how = f"{len(changed)} parameters differ after {where} (the largest change: {largest})"
        advice = "put back the weights that were there before, also when the validation raises"
    return WEIGHTS.at(largest, source=source, how=how, advice=advice, changed=len(changed))


def _buffers(seen: Rehearsal, where: str, source: Source | None) -> Iterator[Finding]:
    judged = seen.run.visits if seen.estimates_again else seen.in_training_mode()
    explained = {visit.path for visit in judged if visit.switch == "statistics"}
    changed = [name for name in seen.changes.buffers if name.rpartition(".")[0] not in explained]
    if not changed or seen.buffers_matter is False:
        return
    saved = changed[0] in seen.setup.model.state_dict()
    if saved or seen.buffers_matter:
        yield BUFFER.at(
            changed[0],
            source=source,
            severity="fail" if saved and seen.buffers_matter else "warn",
            where=where,
            more=f" and {len(changed) - 1} more" if len(changed) > 1 else "",
            proof=", and its loss on training data is another" if seen.buffers_matter else "",
        )


def _gradients(seen: Rehearsal, where: str, source: Source | None) -> Iterator[Finding]:
    left = seen.changes.gradients
    # Gradients of the input are asked for by attacks and force fields; those of the parameters come along with them.
    if not left or (seen.run.wants_input_grad and not seen.accumulates):
        return
    consequence = {
        True: "the next training step adds its own to them",
        False: "train_step clears them, so they only cost time and memory",
        None: "a loop that calls zero_grad() after the step will add its own to them",
    }[seen.accumulates]
    yield GRADIENTS.at(
        left[0],
        source=source,
        severity="warn" if seen.accumulates is False else "fail",
        where=where,
        count=len(left),
        total=sum(1 for _ in seen.setup.model.parameters()),
        consequence=consequence,
    )


def _training_on(seen: Rehearsal, source: Source | None) -> Iterator[Finding]:
    frozen = seen.changes.frozen
    if seen.run.leaves_grad_off:
        what = "gradients are switched off everywhere (torch.set_grad_enabled)"
        yield GRAD_OFF.at(None, source=source, what=what)
    elif frozen:
        what = f"{len(frozen)} parameters that were trained no longer require gradients"
        yield GRAD_OFF.at(frozen[0], source=source, what=what)
    elif seen.fails_after is not None:
        what, error = seen.fails_after
        yield FAILS.at(None, source=source, what=what, error=error)
    flipped = seen.flipped_modes()
    if not flipped:
        return
    first = flipped[0]
    if first.evaluating:
        before, after, consequence = "training", "eval", _ASLEEP[first.effect or "custom"]
        advice = "call model.train() at the end of validate(), or at the start of train_step"
    else:
        before, after, consequence = "eval", "training", "what was frozen trains from then on"
        advice = "put back the mode that each module had, rather than calling train() on the whole model"
    yield MODE_LEFT.at(
        first.path or None,
        source=source,
        what=named(flipped),
        before=before,
        after=after,
        consequence=consequence,
        advice=advice,
    )


def named(visits: list[Visit]) -> str:
    """The first of the modules by name and class, and how many more there are."""
    first, more = visits[0], len(visits) - 1
    beside = "" if first.of_model else f" of a {type(first.root).__name__} beside the set-up's model"
    rest = f" and {more} more module{'s' if more > 1 else ''}" if more else ""
    return f"{first.path or 'the model itself'} ({first.kind}){beside}{rest}"
