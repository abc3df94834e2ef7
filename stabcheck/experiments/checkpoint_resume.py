"""A checkpoint that does not bring everything back: the resumed run is another run.

## What it looks at
The set-up trains a few steps, saves with your `save`, and trains on. A fresh process builds the set-up again, calls your
`load` and trains on the same batches under the same random states; once from the middle of an epoch, once from an
epoch's end. Right after load it compares, by name and bit for bit, weights, buffers, optimizer state, schedule, and every
module, tensor, number and flag that your functions close over (an EMA, a step counter); a few steps later the losses
and weights. A value that differs but changes neither training nor a model kept beside it (a log, a timer) is no fault:
where that is in doubt, the value of the uninterrupted run is put in place, and only what mends the resumed run is named.
Tensors of more than 65536 elements are compared on an evenly spread sample. Where your code makes sets or calls hash(),
a process with other string hashes loads the checkpoint too: words and columns must keep their numbers.

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

from stabcheck.check import Finding, NotChecked, Outcome, Severity, experiment
from stabcheck.experiments import _checkpoint_resume_minor
from stabcheck.experiments._checkpoint_resume_rules import (
    BESIDE,
    BUFFERS,
    DETACHED,
    ENCODING,
    NOT_LOADABLE,
    OPTIMIZER,
    RULES,
    SAVING,
    SCHEDULE,
    UNKNOWN,
    UNSAVED,
    WEIGHTS,
)

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.resume.cuts import Cut, Run
    from stabcheck.trial.resume.resume import Resumed

_RULES = {"weight": WEIGHTS, "buffer": BUFFERS, "moment": OPTIMIZER, "held": DETACHED, "schedule": SCHEDULE}


@experiment(
    title="Checkpoint resume",
    about=("save",),
    rules=RULES,
    cost="dear",
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Interrupt the run, resume it in a fresh process, and compare."""
    from stabcheck.trial.resume.course import measured
    from stabcheck.trial.resume.resume import resume
    from stabcheck.trial.resume.uninterrupted import uninterrupted

    bench.tell(0.0, "training and saving")
    run = uninterrupted(bench)
    bench.tell(0.4, "loading in a fresh process")
    results = resume(bench, run, run.cuts)
    findings = _broken(run, results) or _altered(run) + _lost(run, results)
    notes: list[NotChecked] = []
    if not findings:
        bench.tell(0.7, "comparing what follows")
        findings, notes = _continued(bench, run, results)
    findings = findings or _encoded_anew(bench, run) or _checkpoint_resume_minor.judge(run, results)
    return Outcome(
        summary=_summary(run, findings),
        findings=tuple(findings),
        measurements={
            "own_checkpoint": run.own_checkpoint,
            "checkpoint_bytes": run.cuts[0].wrote,
            "cuts": [measured(run, cut, result) for cut, result in zip(run.cuts, results, strict=True)],
        },
        not_checked=(*notes, *_not_checked(run, results)),
    )


def _broken(run: Run, results: list[Resumed]) -> list[Finding]:
    """The load, or the first step after it, that raised."""
    result = next((result for result in results if result.error), None)
    if result is None or result.error is None:
        return []
    error = result.error
    what = f"{error['stage']} fails after a resume" if result.is_loaded else "the checkpoint cannot be loaded"
    wrote_nothing = run.own_checkpoint and not run.cuts[0].wrote
    hint = " (save() wrote nothing to the path that it was given)" if wrote_nothing else ""
    finding = NOT_LOADABLE.at(
        None,
        source=(error["file"], error["line"]) if error["file"] else None,
        severity=_severity(run),
        what=what if run.own_checkpoint else f"{what}, in the textbook way with state_dicts,",
        error=error["message"] + hint,
        advice=_advice(error["message"], wrote_nothing=wrote_nothing),
    )
    return [finding]


def _advice(message: str, *, wrote_nothing: bool) -> str:
    if wrote_nothing:
        return "write to the path that save() is given, and read from the path that load() is given"
    if "weights_only" in message:
        return (
            "save state_dicts, tensors, numbers and plain containers only; where the file is your own, "
            "torch.load(path, weights_only=False) reads any class"
        )
    if "state_dict" in message or "parameter group" in message:
        return "before load(), build the same modules and parameter groups as there were when the checkpoint was saved"
    return "make load() work in a process that has done nothing but call the entry function"


def _altered(run: Run) -> list[Finding]:
    from stabcheck.trial.resume.lost import altered

    found = ((cut, altered(run, cut)) for cut in run.cuts)
    return [SAVING.at(None, source=run.save_source, how=how, cut=cut.name) for cut, how in found if how][:1]


def _lost(run: Run, results: list[Resumed]) -> list[Finding]:
    """The documented state that load did not bring back; each part once, at the first cut that shows it."""
    from stabcheck.trial.resume.lost import lost

    found: dict[tuple[str, str], Finding] = {}
    for cut, result in zip(run.cuts, results, strict=True):
        for item in lost(run, cut, result):
            facts: dict[str, Any] = {"part": item.part, "names": item.names, "count": item.count, "how": item.how}
            facts |= {"total": item.total} if item.total else {}
            rule = _RULES.get(item.kind, BESIDE)
            finding = rule.at(item.location, source=run.save_source, **facts, **_common(run, cut))
            found.setdefault((finding.code, item.part), finding)
    return list(found.values())


def _continued(bench: Bench, run: Run, results: list[Resumed]) -> tuple[list[Finding], list[NotChecked]]:
    """Whether what follows is the same, all documented state being restored, and the reason if it is not."""
    from stabcheck.trial.resume.course import causes, drift, same_course

    if not all(result.losses for result in results):
        return [], [NotChecked("the steps after load", "the batches cannot be written to a file to be used again")]
    pairs = zip(run.cuts, results, strict=True)
    parted = [(cut, result) for cut, result in pairs if not same_course(run, cut, result)]
    findings: list[Finding] = []
    notes: list[NotChecked] = []
    for cut, result in parted[:1]:
        for cause in causes(bench, run, cut, result):
            if cause.kind == "unsaved":
                facts: dict[str, Any] = {
                    "part": cause.part,
                    "saved": cause.saved,
                    "loaded": cause.loaded,
                    "advice": cause.advice,
                }
                findings.append(UNSAVED.at(None, source=run.save_source, **facts, **_common(run, cut)))
            elif cause.kind == "saving":
                how = "without it, the same run takes another course"
                findings.append(SAVING.at(None, source=run.save_source, how=how, cut=cut.name))
            elif cause.kind == "unknown":
                findings.append(UNKNOWN.at(None, drift=drift(cut, result), cut=cut.name))
            else:
                notes.append(NotChecked("whether the steps after load are exactly the same", cause.why))
    return findings, notes


def _encoded_anew(bench: Bench, run: Run) -> list[Finding]:
    """Data that mean something else to the weights in every process."""
    from stabcheck.trial.resume.encoding import other_code

    how = other_code(bench, run.cuts[0]) if run.own_checkpoint and run.cuts[0].wrote else None
    return [ENCODING.at(None, source=bench.source(bench.entry.function), load="load()", how=how)] if how else []


def _severity(run: Run) -> Severity | None:
    """What the textbook checkpoint loses is not known to be lost by the user's own."""
    return None if run.own_checkpoint else "warn"


def _common(run: Run, cut: Cut) -> dict[str, Any]:
    load = "load()" if run.own_checkpoint else "load_state_dict()"
    return {"severity": _severity(run), "cut": cut.name, "load": load}


def _summary(run: Run, findings: list[Finding]) -> str:
    if findings:
        names = {rule.code: rule.name.replace("-", " ") for rule in CHECK.rules}
        return ", ".join(dict.fromkeys(names[finding.code] for finding in findings))
    places = " and ".join("in mid-epoch" if cut.epoch_metric is None else "at an epoch's end" for cut in run.cuts)
    which = "your checkpoint" if run.own_checkpoint else "the textbook checkpoint (yours was not given)"
    return f"a fresh process goes on from {which} as the uninterrupted run does, saved {places}"


def _not_checked(run: Run, results: list[Resumed]) -> list[NotChecked]:
    from stabcheck.trial.resume.resume import restarts

    if not run.own_checkpoint:
        why = "no 'save' and 'load' given: the state_dicts of model, optimizer and scheduler were tried; add both keys"
        return [NotChecked("your own checkpoint", why)]
    notes = []
    if run.only_one:
        notes.append(NotChecked("resuming at an epoch's end", run.only_one))
    if restarts(run, results):
        why = "not in the checkpoint: a process seeded as the first begins again with the batches of the first epoch"
        notes.append(NotChecked("the order of batches after a resume", why))
    return notes
