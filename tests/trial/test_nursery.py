from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stabcheck.trial.nursery import FreshProcessDied, Nursery
from stabcheck.userland import UserCodeError

JOBS = """
import ctypes, os, sys, time
from stabcheck.userland import userland

state = []

def add(numbers):
    state.append(1)
    return {"sum": sum(numbers), "calls": len(state), "pid": os.getpid(), "folder": os.getcwd()}

def divide(number):
    with userland("load"):
        return 1 / number

def bug(argument):
    raise KeyError("ours")

def leave(code):
    os._exit(code)

def interrupt(argument):
    raise KeyboardInterrupt

def crash(argument):
    ctypes.string_at(0)

def hang(argument):
    while True:
        time.sleep(0.05)

def unjsonable(argument):
    return object()
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "nursery_jobs.py"
    file.write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    return file


@pytest.fixture(params=[True, False], ids=["parked", "spawned"])
def each_nursery(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[Nursery]:
    """The one that forks, and the one that starts interpreters."""
    yield nursery if request.param else Nursery(parked=False)
    nursery.deadline = float("inf")


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), start=1) if text in line)


def test_every_call_is_in_a_fresh_process(each_nursery: Nursery, jobs: Path) -> None:
    first, second = (each_nursery.run("nursery_jobs:add", [1, 2, 3]) for _ in range(2))

    assert (first["sum"], first["calls"], second["calls"]) == (6, 1, 1)
    assert len({first["pid"], second["pid"], os.getpid()}) == 3


def test_users_exception_keeps_stage_and_place(each_nursery: Nursery, jobs: Path) -> None:
    with pytest.raises(UserCodeError) as caught:
        each_nursery.run("nursery_jobs:divide", 0)

    assert caught.value.stage == "load"
    assert caught.value.message == "ZeroDivisionError: division by zero"
    assert (caught.value.file, caught.value.line) == (str(jobs), line_of(jobs, "return 1 / number"))
    assert "1 / number" in caught.value.trace


def test_exception_outside_a_door_is_blamed_by_its_innermost_frame(nursery: Nursery, jobs: Path) -> None:
    with pytest.raises(UserCodeError) as theirs:
        nursery.run("nursery_jobs:bug", None)
    with pytest.raises(UserCodeError) as ours:
        nursery.run("stabcheck.trial.rng:seed_all", "no number")

    assert (theirs.value.blame, ours.value.blame) == ("target", "stabcheck")


def test_ways_to_die_are_told_apart(each_nursery: Nursery, jobs: Path) -> None:
    with pytest.raises(FreshProcessDied, match=r"the process ended with exit code 0 \(os._exit"):
        each_nursery.run("nursery_jobs:leave", 0)
    with pytest.raises(UserCodeError, match="raised KeyboardInterrupt"):
        each_nursery.run("nursery_jobs:interrupt", None)
    with pytest.raises(FreshProcessDied, match="the process crashed with SIGSEGV") as crash:
        each_nursery.run("nursery_jobs:crash", None)

    assert (crash.value.file, crash.value.line) == (str(jobs), line_of(jobs, "string_at(0)"))


def test_job_that_hangs_is_ended_and_says_where(each_nursery: Nursery, jobs: Path) -> None:
    each_nursery.deadline = time.monotonic() + (0.5 if each_nursery._pid else 1.5)

    with pytest.raises(FreshProcessDied, match="the process did not end in the time left") as caught:
        each_nursery.run("nursery_jobs:hang", None)
    each_nursery.deadline = float("inf")

    assert caught.value.file == str(jobs)
    assert caught.value.line in {line_of(jobs, "while True"), line_of(jobs, "time.sleep")}
    assert each_nursery.run("nursery_jobs:add", [])["sum"] == 0


def test_result_that_json_cannot_hold_is_an_error(nursery: Nursery, jobs: Path) -> None:
    with pytest.raises(UserCodeError, match="not JSON serializable"):
        nursery.run("nursery_jobs:unjsonable", None)


def test_job_starts_where_the_nursery_was_made(
    nursery: Nursery, jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = os.getcwd()
    monkeypatch.chdir(tmp_path)

    assert nursery.run("nursery_jobs:add", [])["folder"] == home


def test_closed_nursery_leaves_no_process(jobs: Path) -> None:
    nursery = Nursery()
    pid = nursery._pid
    nursery.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_parked_process_that_was_killed_is_replaced_by_an_interpreter(jobs: Path) -> None:
    nursery = Nursery()
    os.kill(nursery._pid, 9)
    os.waitpid(nursery._pid, 0)

    with pytest.raises(FreshProcessDied, match="the parked process is gone"):
        nursery.run("nursery_jobs:add", [1])

    assert nursery.run("nursery_jobs:add", [1])["sum"] == 1
