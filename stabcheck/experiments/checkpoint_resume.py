"""A checkpoint that does not bring everything back: the resumed run is another run.

## What it looks at
The set-up trains a few steps, saves with your `save`, and trains on. A fresh process builds the set-up again, calls your
`load` and trains on the same batches under the same random states; once from the middle of an epoch, once from an
epoch's end. Right after load it compares, by name and bit for bit, weights, buffers, optimizer state, schedule, and every
module, tensor, number and flag that your functions close over (an EMA, a step counter); a few steps later the losses
and weights. A value that differs but changes neither training nor a model kept beside it (a log, a timer) is no fault:
where that is in doubt, the value of the uninterrupted run is put in place, and only what mends the resumed run is named.
Tensors of more than 131072 elements are compared on an evenly spread sample.

The next random numbers and batches are compared too, but a plain checkpoint without them is common and sound: you are
warned only where the checkpoint holds the random state and load does not set it, or where the loader shuffles with a
generator of its own, which starts every resumed process on the order of the first epoch.

Without `save` and `load`, the textbook checkpoint (the state_dict of model, optimizer and scheduler) is tried instead.

## Why it matters
Long runs are interrupted. A forgotten optimizer or schedule shows as a bump at best; a forgotten EMA or batch-norm
statistics shows nowhere in the training loss, and is the model that you publish.

## What to do
Save and load what the finding names: `state_dict()` for modules, optimizers, schedulers and scalers; numbers as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, experiment

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.resume import Resumed
    from stabcheck.trial.uninterrupted import Cut, Run

UNEXPLAINED = 1e-2
"""Distance of the resumed weights from the uninterrupted ones, in units of how far these moved after the checkpoint,
from which a difference without a visible cause is mentioned. Rounding noise of 1e-7 in the weights grows to 3e-3 under
Adam within 6 steps (measured on MLP, CNN, LSTM and transformer); lost state of any kind leaves 1e-3 to 1."""

WEIGHTS = Rule(
    "SC0401",
    "weights-not-restored",
    "fail",
    message="After load() in a fresh process {count} of {total} weight tensors are not the saved ones ({names}): {how}.",
    fix="Save model.state_dict() and load it into the same model with strict=True; look at the keys that are left out.",
)
BUFFERS = Rule(
    "SC0402",
    "buffers-not-restored",
    "fail",
    message="After load() in a fresh process {count} of {total} buffers are not the saved ones ({names}): {how}. "
    "The training loss does not show it; evaluation does.",
    fix="Save model.state_dict(), which holds the buffers, rather than the parameters alone.",
)
OPTIMIZER = Rule(
    "SC0403",
    "optimizer-state-not-restored",
    "fail",
    message="After load() in a fresh process the state of {part} is not the saved one ({names} of {count} parameters): {how}.",
    fix="Save {part}.state_dict() and give it to {part}.load_state_dict() in load().",
)
DETACHED = Rule(
    "SC0404",
    "optimizer-detached-from-model",
    "fail",
    message="After load() {part} no longer holds {count} of the model's parameters ({names}): they were replaced by new "
    "tensors, which it will never update.",
    fix="Load in place with model.load_state_dict(), or build the optimizer after the parameters are replaced.",
)
SCHEDULE = Rule(
    "SC0405",
    "schedule-not-restored",
    "fail",
    message="After load() in a fresh process {part} is not where it was saved: {how}.",
    fix="Save {part}.state_dict() and give it to {part}.load_state_dict() in load().",
)
MODEL_BESIDE = Rule(
    "SC0406",
    "second-model-not-restored",
    "fail",
    message="Training changes {part}, but after load() in a fresh process it is not the saved one: {how}.",
    fix="Save and load {part} as well as the model.",
)
UNSAVED = Rule(
    "SC0407",
    "unsaved-state-changes-training",
    "fail",
    message="{part} is {saved} when the checkpoint is written and {loaded} after load() in a fresh process, and the resumed "
    "run trains differently for it. Put back by hand, it mends the run.",
    fix="Save {part} in the checkpoint and set it in load().",
)
NOT_LOADABLE = Rule(
    "SC0408",
    "checkpoint-not-loadable",
    "fail",
    message="{what} in a fresh process: {error}",
    fix="{advice}",
)
SAVING = Rule(
    "SC0409",
    "saving-changes-the-run",
    "fail",
    message="save() changes the run that it saves: {how}.",
    fix="Let save() read only: put back modes and devices, and convert copies rather than the model.",
)
RANDOM_STATE = Rule(
    "SC0410",
    "random-state-not-restored",
    "warn",
    message="The checkpoint holds the random state, but after load() in a fresh process it is another one: dropout, "
    "augmentation and shuffling continue with other numbers.",
    fix="Call torch.set_rng_state() with the saved state at the end of load().",
)
ORDER = Rule(
    "SC0411",
    "one-order-for-every-restart",
    "warn",
    message="The loader shuffles with a generator of its own that the checkpoint does not hold: every resumed process starts "
    "on the order of the first epoch, and a run restarted once an epoch never sees another.",
    fix="Save loader.generator.get_state() and set it in load(), or seed the generator from the epoch.",
)
UNKNOWN = Rule(
    "SC0412",
    "resumed-run-differs",
    "warn",
    message="The resumed run trains differently (its weights are off by {drift:.2g} of the distance trained since the "
    "checkpoint) although all state in sight is restored and the uninterrupted run repeats itself exactly.",
    fix="Look for state outside the set-up's objects: a cache, a file, a queue, a counter in a library.",
)


_RULES = {"weight": WEIGHTS, "buffer": BUFFERS, "moment": OPTIMIZER, "held": DETACHED, "schedule": SCHEDULE}


@experiment(
    title="Checkpoint resume",
    rules=(
        WEIGHTS,
        BUFFERS,
        OPTIMIZER,
        DETACHED,
        SCHEDULE,
        MODEL_BESIDE,
        UNSAVED,
        NOT_LOADABLE,
        SAVING,
        RANDOM_STATE,
        ORDER,
        UNKNOWN,
    ),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Interrupt the run, resume it in a fresh process, and compare."""
    from stabcheck.trial.resume import resume
    from stabcheck.trial.uninterrupted import uninterrupted

    bench.tell(0.0, "training and saving")
    run = uninterrupted(bench)
    bench.tell(0.4, "loading in a fresh process")
    results = resume(bench, run, run.cuts)
    findings = _broken(run, results) or _altered(run) + _lost(run, results)
    notes: list[NotChecked] = []
    if not findings:
        bench.tell(0.7, "comparing what follows")
        findings, notes = _continued(bench, run, results)
    findings += _randomness(run, results)
    return Outcome(
        summary=_summary(run, findings),
        findings=tuple(findings),
        measurements=_measurements(run, results),
        not_checked=(*notes, *_not_checked(run, results)),
    )


def _broken(run: Run, results: list[Resumed]) -> list[Finding]:
    """The load, or the first step after it, that raised."""
    error = next((result.error for result in results if result.error), None)
    if error is None:
        return []
    wrote_nothing = run.own_checkpoint and not run.cuts[0].wrote
    what = "load() fails" if error["stage"] == "load" else f"After load() {error['stage']} fails"
    if not run.own_checkpoint:
        what = f"The textbook checkpoint cannot be resumed: {error['stage']} fails"
    hint = " (save() wrote nothing at the path that it was given)" if wrote_nothing else ""
    return [
        NOT_LOADABLE.at(
            None,
            source=(error["file"], error["line"]) if error["file"] else None,
            what=what,
            error=error["message"] + hint,
            advice=_advice(error["message"], wrote_nothing=wrote_nothing),
        )
    ]


def _advice(message: str, *, wrote_nothing: bool) -> str:
    if wrote_nothing:
        return "Write to the path that save() is given, and read from the path that load() is given."
    if "weights_only" in message or "Unsupported global" in message:
        return (
            "Save state_dicts, tensors, numbers and plain containers only; where the file is your own, "
            "torch.load(path, weights_only=False) reads any class."
        )
    if "state_dict" in message or "param" in message:
        return "Before load(), build the same modules and parameter groups as there were when the checkpoint was saved."
    return "Make load() work in a process that has done nothing but call the entry function."


def _altered(run: Run) -> list[Finding]:
    """What save() did to the run."""
    from stabcheck.trial.lost import altered, value

    for cut in run.cuts:
        changed = altered(run, cut)
        if changed:
            first = changed[0]
            more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
            now = "rounded" if first.rounded else f"{value(first.actual)} instead of {value(first.expected)}"
            return [SAVING.at(None, how=f"afterwards {first.path} is {now}{more}", cut=cut.name)]
    return []


def _lost(run: Run, results: list[Resumed]) -> list[Finding]:
    """The documented state that load did not bring back; each part once, at the first cut that shows it."""
    from stabcheck.trial.lost import lost

    found: dict[tuple[str, str], Finding] = {}
    for cut, result in zip(run.cuts, results, strict=True):
        for item in lost(run, cut, result):
            total = sum(leaf.kind == item.kind for leaf in cut.saved.values())
            finding = _RULES.get(item.kind, MODEL_BESIDE).at(
                item.location,
                severity=None if run.own_checkpoint else "warn",
                part=item.part,
                names=item.names,
                count=item.count,
                total=total,
                how=item.how,
                cut=cut.name,
            )
            found.setdefault((finding.code, item.part), finding)
    return list(found.values())


def _continued(bench: Bench, run: Run, results: list[Resumed]) -> tuple[list[Finding], list[NotChecked]]:
    """Whether what follows is the same, all documented state being restored, and the reason if it is not."""
    from stabcheck.trial.course import causes, drift, same_course
    from stabcheck.trial.lost import value

    pairs = zip(run.cuts, results, strict=True)
    cut, result = next(((c, r) for c, r in pairs if not same_course(run, c, r)), (None, None))
    if cut is None or result is None:
        return [], []
    if not result.losses:
        return [], [NotChecked("the steps after load", "the batches cannot be written to a file to be used again")]
    findings: list[Finding] = []
    notes: list[NotChecked] = []
    for cause in causes(bench, run, cut, result):
        if cause.kind == "unsaved" and cause.difference is not None:
            findings.append(
                UNSAVED.at(
                    None,
                    severity=None if run.own_checkpoint else "warn",
                    part=cause.part,
                    saved=value(cause.difference.expected),
                    loaded=value(cause.difference.actual),
                    cut=cut.name,
                )
            )
        elif cause.kind == "saving":
            findings.append(SAVING.at(None, how="without it, the same run takes another course", cut=cut.name))
        elif cause.kind == "unknown" and not run.iterators and drift(cut, result) > UNEXPLAINED:
            findings.append(UNKNOWN.at(None, drift=drift(cut, result), cut=cut.name))
        else:
            notes.append(
                NotChecked("whether the steps after load are exactly the same", _excuse(run, cause.kind, cause.part))
            )
    return findings, notes


def _excuse(run: Run, kind: str, part: str) -> str:
    if kind == "carried":
        return f"{part}, carried over from the last batch, starts anew in a resumed run"
    if kind == "unsteady":
        return "the uninterrupted run does not repeat itself exactly; the state right after load was compared"
    if run.iterators:
        return f"they are not, and the position of the running iterator {run.iterators[0]} cannot be seen"
    return "they differ by no more than rounding may grow to"


def _randomness(run: Run, results: list[Resumed]) -> list[Finding]:
    """Random state and data order, where they were meant to be restored."""
    from stabcheck.trial.resume import holds

    if not run.own_checkpoint:
        return []
    for cut, result in zip(run.cuts, results, strict=True):
        if result.rng is not None and not result.rng.torch_state.equal(cut.rng.torch_state) and holds(cut.path, cut.rng.torch_state):
            return [RANDOM_STATE.at(None, cut=cut.name)]
    if run.own_generator and "restarts" in (_order(run, *pair) for pair in _boundaries(run, results)):
        return [ORDER.at(None)]
    return []


def _boundaries(run: Run, results: list[Resumed]) -> list[tuple[Cut, Resumed]]:
    return [(cut, result) for cut, result in zip(run.cuts, results, strict=True) if cut.epoch_metric is not None]


def _order(run: Run, cut: Cut, result: Resumed) -> str | None:
    """The batches that the resumed loader gives next: "exact", as they would have come; "restarts", those of the first
    epoch again; "other"; None if it was not looked at."""
    count = len(result.order)
    if not count:
        return None
    if result.order == run.order(cut.at)[:count]:
        return "exact"
    return "restarts" if result.order == run.order(0)[:count] else "other"


def _summary(run: Run, findings: list[Finding]) -> str:
    names = {rule.code: rule.name.replace("-", " ") for rule in CHECK.rules}
    if findings:
        return ", ".join(dict.fromkeys(names[finding.code] for finding in findings))
    places = " and ".join("in mid-epoch" if cut.epoch_metric is None else "at an epoch boundary" for cut in run.cuts)
    which = "your checkpoint" if run.own_checkpoint else "the textbook checkpoint (yours was not given)"
    return f"a fresh process goes on from {which} as the uninterrupted run does, {places}"


def _measurements(run: Run, results: list[Resumed]) -> dict[str, Any]:
    from stabcheck.trial.course import drift, same_course

    return {
        "own_checkpoint": run.own_checkpoint,
        "checkpoint_bytes": run.cuts[0].wrote,
        "cuts": [
            {
                "place": cut.name,
                "steps_before": cut.at,
                "steps_after": run.after,
                "losses": run.losses(cut),
                "resumed_losses": result.losses,
                "bit_equal": same_course(run, cut, result) if result.losses else None,
                "weight_drift": drift(cut, result) if result.losses else None,
                "random_state_restored": bool(result.rng.torch_state.equal(cut.rng.torch_state)) if result.rng else None,
                "next_batches": _order(run, cut, result),
            }
            for cut, result in zip(run.cuts, results, strict=True)
        ],
    }


def _not_checked(run: Run, results: list[Resumed]) -> list[NotChecked]:
    if not run.own_checkpoint:
        why = "no 'save' and 'load' given: the state_dicts of model, optimizer and scheduler were tried; add both keys"
        return [NotChecked("your own checkpoint", why)]
    notes = []
    if len(run.cuts) == 1:
        why = (
            "there was no time for it" if run.cuts[0].wrote else "save() writes elsewhere than to the path it is given"
        )
        notes.append(NotChecked("resuming at an epoch boundary", why))
    if any(_order(run, cut, result) == "restarts" for cut, result in _boundaries(run, results)):
        why = (
            "it is not in the checkpoint, so each resumed process begins again with the batches of the first epoch; "
            "save torch.get_rng_state() too if the run may be interrupted often"
        )
        notes.append(NotChecked("the order of batches after a resume", why))
    return notes
