from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stabcheck import stacks

PROGRAM = """
import ctypes, faulthandler, multiprocessing, queue, sys, threading, time
from pathlib import Path
from stabcheck import stacks

stacks.arm(Path(sys.argv[1]))

def busy():
    while True:
        time.sleep(0.01)

def locked():
    ctypes.PyDLL(None).sleep(1000)

def crash():
    ctypes.string_at(0)

def waits():
    queue.Queue().get()

def child():
    multiprocessing.get_context("fork").Process(target=busy).start()
    waits()

threading.Thread(target=waits, daemon=True).start()
print("ready", flush=True)
globals()[sys.argv[2]]()
"""


class Program:
    def __init__(self, folder: Path, function: str) -> None:
        self.file, self.stack = folder / "program.py", folder / "stack.txt"
        self.file.write_text(PROGRAM)
        command = [sys.executable, str(self.file), str(self.stack), function]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stack_in(self, function: str, pid: int | None = None) -> stacks.Stack:
        """The stack, once the process has got to `function`."""
        for _ in range(200):
            stack = stacks.ask(pid or self.process.pid, self.stack).since_fork()
            if any(name == function for _, _, name in stack.frames):
                return stack
            time.sleep(0.05)
        raise AssertionError(f"never in {function}")


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), start=1) if text in line)


@pytest.mark.parametrize("function", ["busy", "locked"])
def test_hanging_process_says_where_even_if_it_holds_the_interpreter_lock(tmp_path: Path, function: str) -> None:
    with Program(tmp_path, function) as program:
        stack = program.stack_in(function)

        assert stack.place is not None
        assert stack.place[0] == str(program.file)
        assert f'File "{program.file}", line {stack.place[1]}, in {function}' in str(stack)
        assert not stack.is_waiting


def test_waiting_process_leads_to_the_one_that_it_waits_for(tmp_path: Path) -> None:
    with Program(tmp_path, "child") as program:
        stack = program.stack_in("waits")
        (child,) = stacks.children(program.process.pid)
        inner = program.stack_in("busy", child)

        assert stack.is_waiting
        assert inner.place is not None
        assert all(name != "child" for _, _, name in inner.frames)


def test_crash_says_where(tmp_path: Path) -> None:
    with Program(tmp_path, "crash") as program:
        code = program.process.wait()
        stack = stacks.of_crash(program.stack, code)

        assert code == -signal.SIGSEGV
        assert stack.place == (str(program.file), line_of(program.file, "ctypes.string_at(0)"))
        assert stacks.of_crash(program.stack, -signal.SIGKILL) == stacks.Stack(())


def test_silence_is_an_empty_stack(tmp_path: Path) -> None:
    assert stacks.ask(2**22 + 1, tmp_path / "none") == stacks.Stack(())
    assert stacks.of_crash(tmp_path / "none", -11) == stacks.Stack(())
    assert str(stacks.Stack(())) == ""


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (-9, "the process was killed (signal 9), most often because memory ran out"),
        (-11, "the process crashed with SIGSEGV"),
        (-signal.SIGBUS, "the process crashed with SIGBUS, most often because /dev/shm is full"),
        (-40, "the process was ended by signal 40"),
        (0, "the process ended with exit code 0 (os._exit, or an exit in a C library)"),
    ],
)
def test_ending(code: int, says: str) -> None:
    assert stacks.ending(code).startswith(says)
