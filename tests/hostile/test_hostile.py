"""Set-ups that hang, crash, exit, print and worse. Whatever they do: every check has its result, the message names
the cause and the user's file, what is not concerned still runs, nothing of ours is blamed and no process is left."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import simple_checks

from stabcheck import engine, stacks
from stabcheck.report import Report, exit_code

FOLDER = Path(__file__).parent
LOAD = "load"
PATIENT: dict[str, Any] = {"budget": 60.0, "check_timeout": 30.0, "load_timeout": 30.0, "steps": 6}
NAMES = [check.id for check in simple_checks.HARMLESS]


@dataclass
class Case:
    """What must come out: for some checks a part of their error; all others pass."""

    errors: dict[str, str] = field(default_factory=dict)
    """"load" stands for all checks."""
    skips: tuple[str, ...] = ()
    place: str = "{name}.py:"
    """In every error message; "" if it is not known where."""
    only: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


TRAINING = ("losses", "trains")
QUICK_LOAD = {"load_timeout": 1.0}
QUICK_CHECK = {"check_timeout": 1.0}
QUICK_TRIAL = {"budget": 2.0}
LATE_LOAD = "did not end within --load-timeout 1 s: it was busy at "
LATE_CHECK = "did not end within --check-timeout 1 s: it was busy at "
LATE_TRIAL = "did not end within 1.2 s, its share of --budget 2 s: it was busy at "


def each(checks: tuple[str, ...], says: str) -> dict[str, str]:
    return dict.fromkeys(checks, says)


CASES = {
    "alarm": Case({"validates": "TimeoutError: the data server does not answer"}),
    "atexit_hangs": Case(),
    "breakpoint_in_step": Case(each(TRAINING, "stopped at a breakpoint: take it out, or use --in-process"), place=""),
    "changes_directory": Case(),
    "checks_itself": Case({LOAD: "UsageError: the target calls stabcheck.run while it is loaded"}),
    "clears_temp": Case(),
    "closes_everything": Case({LOAD: "the process closed files that are not its own"}, place=""),
    "closes_stdout": Case(),
    "daemon": Case(),
    "deaf": Case({LOAD: LATE_LOAD}, options=QUICK_LOAD),
    "deep_recursion": Case(each(TRAINING, "RecursionError: maximum recursion depth exceeded")),
    "exit_in_loader": Case(each(TRAINING, "called sys.exit(0): a set-up must return, not exit")),
    "exit_in_loader_worker": Case(each(TRAINING, "RuntimeError: DataLoader worker (pid(s) "), place=""),
    "exit_in_setup": Case({LOAD: "called sys.exit(0): a set-up must return, not exit"}),
    "exit_in_step": Case(each(TRAINING, "called sys.exit(None): a set-up must return, not exit"), place="parts.py:"),
    "exit_on_import": Case({LOAD: "called sys.exit('usage: train.py --data PATH')"}),
    "forks": Case(),
    "global_switches": Case(),
    "gradients_off": Case(each(TRAINING, "RuntimeError: element 0 of tensors does not require grad"), place=""),
    "hang_in_c": Case(each(("trains",), LATE_CHECK), only=("trains", "looks"), options=QUICK_CHECK),
    "hang_in_import": Case({LOAD: LATE_LOAD}, options=QUICK_LOAD),
    "hang_in_load": Case(
        {"resumes": "the process did not end in the time left"}, only=("resumes", "looks"), options=QUICK_CHECK
    ),
    "hang_in_loader": Case({"losses": LATE_TRIAL}, only=("losses",), options=QUICK_TRIAL),
    "hang_in_loader_worker": Case({"trains": LATE_CHECK}, only=("trains", "looks"), options=QUICK_CHECK),
    "hang_in_setup": Case({LOAD: LATE_LOAD}, options=QUICK_LOAD),
    "hang_in_validate": Case({"validates": LATE_CHECK}, only=("validates", "looks"), options=QUICK_CHECK),
    "healthy": Case(),
    "hostile_attributes": Case({LOAD: "RuntimeError: no __next__ today"}),
    "imports_broken": Case(
        {LOAD: "RuntimeError: operator torchvision::nms does not exist"}, place="raises_on_import.py:5"
    ),
    "interrupt_in_setup": Case({LOAD: "raised KeyboardInterrupt"}),
    "interrupt_in_step": Case(each(TRAINING, "raised KeyboardInterrupt")),
    "killed": Case({"validates": "the process was killed (signal 9), most often because memory ran out"}, place=""),
    "missing_module": Case({LOAD: "ModuleNotFoundError: No module named 'a_module_that_is_not_there'; install it for"}),
    "no_setup_at_all": Case({LOAD: "it returned None: return the dict of objects (is a 'return' missing?)"}),
    "no_val_loader": Case(skips=("validates",)),
    "one_shot_iterator": Case(each(TRAINING, "it can be read only once: give something that starts again"), place=""),
    "one_shot_loader": Case({LOAD: "'train_loader' is a generator, which can be read only once"}),
    "os_exit_in_setup": Case(
        {LOAD: "the process ended with exit code 0 (os._exit, or an exit in a C library)"}, place=""
    ),
    "os_exit_in_step": Case(
        each(TRAINING, "the process ended with exit code 0 (os._exit, or an exit in a C library)"), place=""
    ),
    "out_of_memory": Case({"trains": "MemoryError: out of memory"}, only=("trains", "looks")),
    "out_of_memory_in_torch": Case(each(TRAINING, "RuntimeError: [enforce fail at alloc_cpu.cpp")),
    "prints": Case(),
    "raises_at_batch_three": Case(each(TRAINING, "ValueError: record 40 is damaged")),
    "raises_everywhere": Case(each(("losses", "trains", "validates", "resumes"), "ValueError: not today")),
    "raises_in_loader_worker": Case(
        {"trains": "ValueError: record 0 is damaged (in a DataLoader worker)"}, only=("trains", "looks")
    ),
    "reads_arguments": Case(),
    "reads_stdin": Case({LOAD: "EOFError: EOF when reading a line"}),
    "same_model": Case(each(("trains", "validates", "resumes"), "it returned the same model again")),
    "segfault": Case(each(TRAINING, "the process crashed with SIGSEGV")),
    "segfault_in_load": Case({"resumes": "the process crashed with SIGSEGV"}),
    "strange_text": Case({LOAD: "ValueError: ? [bold]café[/bold] long long"}),
    "threads": Case(),
    "two_loader_workers": Case(),
    "unprintable": Case({LOAD: "ShyError (its text cannot be shown: RuntimeError)"}),
    "warnings_are_errors": Case(),
}


@pytest.mark.parametrize("name", CASES)
def test_run_is_completed_with_a_clear_line(
    name: str, host: engine.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    only = case.only or tuple(NAMES)
    catalog = tuple(check for check in simple_checks.HARMLESS if check.id in only)
    options = engine.Options(**{**PATIENT, **case.options})

    report = engine.run(f"{FOLDER / name}.py:setup", options, catalog, host=host)

    errors = each(only, case.errors[LOAD]) if LOAD in case.errors else case.errors
    expected = {
        check.id: "error" if check.id in errors else "skip" if check.id in case.skips else "pass" for check in catalog
    }
    assert {check.id: check.status for check in report.checks} == expected, said(report)
    for check in report.checks:
        if check.error is not None:
            assert errors[check.id] in check.error.message
            assert case.place.format(name=name) in check.error.message
            assert check.error.blame == "target"
    assert exit_code(report, strict=False) == (2 if errors else 0)
    assert report.to_json().encode()
    assert not list(FOLDER.glob("__pycache__/parts*"))
    assert nothing_left(host)


def test_every_file_is_a_case() -> None:
    shared = {"parts", "raises_on_import", "spawned_loader_workers", Path(__file__).stem}

    assert {file.stem for file in FOLDER.glob("*.py")} - shared == set(CASES)


def test_spawned_loader_workers_can_import_the_set_up(
    host: engine.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They import torch anew, which takes a second or two."""
    monkeypatch.chdir(tmp_path)
    target = f"{FOLDER / 'spawned_loader_workers'}.py:setup"

    report = engine.run(target, engine.Options(), (simple_checks.VALIDATES,), host=host)

    assert report.status == "pass", said(report)


def test_a_server_in_its_own_session_is_ended(
    host: engine.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    engine.run(f"{FOLDER / 'daemon'}.py:setup", engine.Options(), (simple_checks.LOOKS,), host=host)

    pid = int((tmp_path / "daemon.pid").read_text())
    assert nothing_left(host)
    assert not Path(f"/proc/{pid}").exists()


def said(report: Report) -> str:
    return "\n".join(
        f"{check.id}: {check.error.message}\n{check.error.traceback}" for check in report.checks if check.error
    )


def nothing_left(host: engine.Host) -> bool:
    """Whether the host has no descendants; they are given a moment to go."""
    end = time.monotonic() + 5
    while stacks.children(host.pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not stacks.children(host.pid) and os.path.exists(f"/proc/{host.pid}")
