"""Runs the checks on a target: yields events, prints nothing, never imports torch.

`events` is the real thing; `run` is for programs that only want the Report; `diagnose` judges a Recording that was
made before. User code runs in a worker (see `supervisor`). Whatever becomes of it, every selected check gets a
result and the Report is made: a check under way when the worker is lost becomes an error, and another worker
takes the rest.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stabcheck import recording as recordings
from stabcheck.catalog import RETIRED, everything
from stabcheck.check import Check
from stabcheck.events import Event, Finished, Progress
from stabcheck.ledger import Ledger
from stabcheck.options import Options
from stabcheck.protocol import ACTIVE, GRACE_SHARE, Request, Surroundings, allowance
from stabcheck.recording import Recording
from stabcheck.report import NEEDS_SETUP, CheckError, Report
from stabcheck.selection import Selection, choose
from stabcheck.supervisor import Host, HostError, Worker, WorkerLostError
from stabcheck.userland import UsageError, clean, shown

__all__ = ["Host", "Options", "UsageError", "diagnose", "events", "run"]

TRIAL = "stabcheck.trial.recorder:record_trial"
START_SECONDS = 300.0
"""For Python and torch to be imported: a second from a warm disk, minutes from a cold network drive."""


def run(
    target: str, options: Options | None = None, catalog: Sequence[Check] | None = None, *, host: Host | None = None
) -> Report:
    """Check a target and return the Report.

    Raises:
        UsageError: an option means nothing. What is wrong with the target is in the Report.
    """
    for event in events(target, options, catalog, host=host):
        if isinstance(event, Finished):
            return event.report
    raise AssertionError("the last event is Finished")


def events(
    target: str, options: Options | None = None, catalog: Sequence[Check] | None = None, *, host: Host | None = None
) -> Iterator[Event]:
    """Check a target, and tell what happens while it does; the last event is Finished.

    Closing the iterator, or a KeyboardInterrupt in it, ends all processes.

    Args:
        catalog: the checks; None for all of ours and of installed packages.
        host: starts the workers, so that several runs need to import torch only once.

    Raises:
        UsageError: an option means nothing (at once, not at the first event).
    """
    options = options or Options()
    if os.environ.get(ACTIVE):
        raise UsageError("the target calls stabcheck.run while it is loaded: put that under if __name__ == '__main__'")
    return _events(Ledger(target, options, _selected(options, catalog)), host)


def _selected(options: Options, catalog: Sequence[Check] | None) -> Selection:
    checks = everything() if catalog is None else catalog
    return choose(checks, options.select, options.ignore, RETIRED, options.severities)


def diagnose(recording: Recording, options: Options | None = None, catalog: Sequence[Check] | None = None) -> Report:
    """Judge a Recording by the diagnoses of the catalogue; nothing of the target is needed. Experiments are skipped.

    Raises:
        UsageError: `select` names no diagnosis.
    """
    options = options or Options()
    selection = _selected(options, catalog)
    if all(check.kind == "experiment" for check in selection.checks):
        raise UsageError(f"{', '.join(check.id for check in selection.checks)}: {NEEDS_SETUP}")
    ledger = Ledger(recording.target, options, selection)
    ledger.recording = recording
    for _ in ledger.diagnose():
        pass
    for check in ledger.pending:
        for _ in ledger.fail(check.id, None, NEEDS_SETUP):
            pass
    return ledger.report()


def _events(ledger: Ledger, host: Host | None) -> Iterator[Event]:
    yield Progress("loading")
    with tempfile.TemporaryDirectory(prefix="stabcheck-", ignore_cleanup_errors=True) as folder:
        files = Path(folder)
        if ledger.options.in_process or os.name != "posix":
            yield from _in_process(ledger, files)
        else:
            with contextlib.ExitStack() as stack, _output(ledger.options, files) as output:
                try:
                    yield from _in_workers(ledger, host or stack.enter_context(Host()), files, output)
                except HostError as error:
                    problem = CheckError(blame=error.blame, stage="start", message=error.message, traceback=error.trace)
                    yield from ledger.fail("load", problem)
    yield Finished(ledger.report())


def _in_process(ledger: Ledger, files: Path) -> Iterator[Event]:
    from stabcheck import worker
    from stabcheck.trial.nursery import Nursery

    folder, arguments = os.getcwd(), list(sys.argv)
    worker.preload()
    try:
        sys.argv[:] = [ledger.target.rpartition(":")[0]]
        nursery = Nursery(parked=False, files=files)
        for message in worker.work(_request(ledger, files), lambda *_: None, nursery, files, contained=False):
            yield from ledger.take(message)
    finally:
        os.chdir(folder)
        sys.argv[:] = arguments


@dataclass(frozen=True)
class _Output:
    """Where the target prints to."""

    descriptor: int
    file: Path | None
    """None if it is not ours to read."""


@contextlib.contextmanager
def _output(options: Options, files: Path) -> Iterator[_Output]:
    file = None if options.verbose else options.log or files / "log.txt"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if file else os.dup(2)
    except OSError as error:
        raise UsageError(f"{file or 'standard error'} cannot be written ({error.strerror})") from None
    try:
        yield _Output(descriptor, file)
    finally:
        os.close(descriptor)


def _in_workers(ledger: Ledger, host: Host, files: Path, output: _Output) -> Iterator[Event]:
    # Every turn settles at least what was under way, so there is an end to it.
    while ledger.stage is not None:
        worker = host.start(_request(ledger, files), output.descriptor, time.monotonic() + START_SECONDS)
        worker.log = output.file
        try:
            yield from _follow(ledger, worker)
        finally:
            worker.end()


def _follow(ledger: Ledger, worker: Worker) -> Iterator[Event]:
    """Listen to a worker until there is nothing left to do, or it is lost."""
    stage: str | None = "load"
    limit = _limit(ledger, "load")
    while stage is not None:
        try:
            message = worker.receive(limit.until)
        except WorkerLostError as lost:
            yield from _lost(ledger, stage, lost, limit)
            return
        if message["type"] == "progress":
            yield from ledger.take(message)
            continue
        if message["type"] == "failed" and "error" in message:
            # A script that leaves (argparse does) says why before.
            message["error"]["traceback"] += _last_output(worker.tail())
        yield from ledger.take(message)
        # Between two stages the next one counts as begun.
        stage = message["stage"] if message["type"] == "started" else ledger.stage
        if stage is not None:
            limit = _limit(ledger, stage)
    worker.finish()


@dataclass(frozen=True)
class _Limit:
    until: float
    """time.monotonic()"""
    option: str
    """What sets it: "--check-timeout 90 s"."""
    is_budget: bool


def _limit(ledger: Ledger, stage: str) -> _Limit:
    options, now = ledger.options, time.monotonic()
    budget = f"--budget {options.budget:g} s"
    if stage == "load":
        rest = ledger.left + GRACE_SHARE * options.budget
        if ledger.deadline is not None and rest < options.load_timeout:
            return _Limit(now + rest, budget, is_budget=True)
        return _Limit(now + options.load_timeout, f"--load-timeout {options.load_timeout:g} s", is_budget=False)
    allowed = allowance(stage, options.budget, options.check_timeout, ledger.left)
    if stage == "trial":
        return _Limit(now + allowed.hard, f"{allowed.hard:.3g} s, its share of {budget}", is_budget=False)
    option = budget if allowed.by_budget else f"--check-timeout {options.check_timeout:g} s"
    return _Limit(now + allowed.hard, option, is_budget=allowed.by_budget)


def _lost(ledger: Ledger, stage: str, lost: WorkerLostError, limit: _Limit) -> Iterator[Event]:
    at = f"{shown(lost.stack.place[0])}:{lost.stack.place[1]}" if lost.stack.place else ""
    if lost.late and limit.is_budget:
        if stage == "load":
            yield from ledger.fail("load", None, f"did not fit {limit.option}: the target had to be loaded again")
        else:
            where = f", at {at}" if at else ""
            yield from ledger.fail(stage, None, f"was stopped unfinished when {limit.option} was spent{where}")
        return
    if lost.late:
        busy = f": it was busy at {at}" if at else ""
        what = f"did not end within {limit.option}{busy}; raise the limit if it is only slow"
    elif lost.ours:
        what = "the worker failed; its own traceback is in the output below"
    else:
        what = f"{lost.how} ({at})" if at else lost.how
    error = CheckError(
        blame="stabcheck" if lost.ours else "target",
        stage="loading" if stage == "load" else stage,
        message=clean(what),
        traceback=str(lost.stack) + _last_output(lost.tail),
    )
    yield from ledger.fail(stage, error)


def _last_output(tail: str) -> str:
    return f"\nLast output:\n{clean(tail)}" if tail else ""


def _request(ledger: Ledger, files: Path) -> Request:
    options, recording = ledger.options, ledger.recording
    return Request(
        target=ledger.target,
        arguments=dict(options.arguments),
        checks=tuple(_reference(check) for check in ledger.pending),
        trial=TRIAL if ledger.trial_is_due else None,
        recording=recordings.to_json(recording) if recording is not None else None,
        seed=options.seed,
        steps=options.steps,
        device=options.device,
        budget=options.budget,
        left=ledger.left,
        reloading=ledger.deadline is not None,
        check_timeout=options.check_timeout,
        thresholds={check: dict(values) for check, values in options.thresholds.items()},
        surroundings=Surroundings(
            folder=os.getcwd(),
            path=tuple(entry or os.getcwd() for entry in sys.path),
            environment=dict(os.environ),
            files=str(files),
        ),
    )


def _reference(check: Check) -> str:
    """A check as "module:name", for a process that has to import it."""
    module = check.run.__module__
    for name, value in vars(sys.modules[module]).items():
        if value is check:
            return f"{module}:{name}"
    raise UsageError(f"the check {check.id!r} cannot be run in a worker: give it a name in the module {module}")
