"""Fresh processes at the price of a fork.

`Nursery()` must be made right after torch was imported and before any user code ran. It keeps one idle
child; `run(function, argument)` has that child fork again and call a function there, in a process
that has seen nothing of the user's. Where fork is not to be had a new interpreter is started instead.

The function is named "package.module:function" and takes and returns what JSON can hold.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from stabcheck import stacks
from stabcheck.interpreters import command
from stabcheck.protocol import FAILED
from stabcheck.userland import UserCodeError, blamed

CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"
"""On macOS system libraries that torch has loaded do not survive a fork."""
STAGE = "fresh process"


class FreshProcessDied(UserCodeError):  # noqa: N818 - it says what happened
    """The fresh process ended without an answer; the message says how."""

    def __init__(self, message: str, stack: stacks.Stack) -> None:
        file, line = stack.place or (None, None)
        super().__init__(STAGE, message, file=file, line=line, trace=str(stack))


class Nursery:
    """A parked child of this process, forked while it was still clean. Not thread-safe.

    Args:
        parked: False starts a new interpreter for each job: for a process that has already run user code.
        files: a directory for its files.
        environment: variables that new interpreters get beside those of this process.
    """

    def __init__(
        self, *, parked: bool = CAN_FORK, files: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self._environment = environment or {}
        self._files = files or Path(tempfile.gettempdir())
        self.deadline = math.inf
        """time.monotonic() at which a job is killed."""
        self._pid = 0
        self._folder = os.getcwd()
        if not parked:
            return
        ours, theirs = os.pipe(), os.pipe()  # requests down, process ids and exit codes up
        self._pid = os.fork()
        if self._pid == 0:
            os.close(ours[1])
            os.close(theirs[0])
            _serve(ours[0], theirs[1])
        os.close(ours[0])
        os.close(theirs[1])
        self._requests, self._answers = ours[1], theirs[0]

    def run(self, function: str, argument: Any) -> Any:
        """Call `function` with `argument` in a fresh process and return its result.

        Raises:
            UserCodeError: the user's code raised there, or ours did; it says who is to blame.
            FreshProcessDied: the process crashed, was killed or did not end in time.
        """
        self._files.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="stabcheck-", dir=self._files, ignore_cleanup_errors=True) as folder:
            job = Path(folder) / "job.json"
            request = {"function": function, "argument": argument, "path": sys.path, "cwd": self._folder}
            job.write_text(json.dumps(request))
            code = self._fork(job) if self._pid else self._spawn(job)
            result = job.with_suffix(".result")
            if not result.exists():
                raise FreshProcessDied(stacks.ending(code), stacks.of_crash(job.with_suffix(".stack"), code))
            answer = json.loads(result.read_text())
        if "error" in answer:
            raise UserCodeError(**answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End the parked child."""
        if self._pid:
            with contextlib.suppress(OSError):
                os.close(self._requests)
                os.close(self._answers)
                # Processes that the user's code has forked may hold the pipe open.
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            self._pid = 0

    def _fork(self, job: Path) -> int:
        try:
            os.write(self._requests, f"{job}\n".encode())
            pid = self._answer()
            code = self._code()
            if code is None:
                late = _late(pid, job)
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.kill(pid, signal.SIGKILL)
                self._answer()
                raise late
        except (OSError, ValueError, EOFError) as error:
            self._pid = 0
            raise FreshProcessDied(f"the parked process is gone ({error})", stacks.Stack(())) from None
        return code

    def _code(self) -> int | None:
        """The job's exit code; None if it does not end in time."""
        left = None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())
        return self._answer() if select.select([self._answers], [], [], left)[0] else None

    def _answer(self) -> int:
        """The next number from the parked child."""
        digits = b""
        while not digits.endswith(b"\n"):
            byte = os.read(self._answers, 1)
            if not byte:
                raise EOFError("no answer")
            digits += byte
        return int(digits)

    def _spawn(self, job: Path) -> int:
        environment = {**os.environ, **self._environment}
        line = command("stabcheck.trial.nursery", "work", str(job))
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, env=environment)
        try:
            return process.wait(None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise _late(process.pid, job) from None
        finally:
            process.kill()
            process.wait()


def _serve(requests: int, answers: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(requests) as lines:
        for line in lines:
            pid = os.fork()
            if pid == 0:
                os.close(answers)
                work(line.strip())
            os.write(answers, f"{pid}\n".encode())
            os.write(answers, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    os._exit(0)


def work(name: str) -> None:
    """Do the job that is described in the file `name`, and leave the process."""
    job, code = Path(name), 0
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stacks.arm(job.with_suffix(".stack"))
        request = json.loads(job.read_text())
        os.chdir(request["cwd"])
        sys.path[:] = request["path"]
        module, _, name = request["function"].partition(":")
        try:
            value = getattr(importlib.import_module(module), name)(request["argument"])
            text = json.dumps({"value": value})
        except BaseException as error:
            known = error if isinstance(error, UserCodeError) else blamed(STAGE, error, default="stabcheck")
            facts = ("stage", "message", "file", "line", "trace", "blame")
            text = json.dumps({"error": {fact: getattr(known, fact) for fact in facts}})
        draft = job.with_suffix(".draft")
        draft.write_text(text)
        draft.rename(job.with_suffix(".result"))
    except BaseException:
        traceback.print_exc()
        code = FAILED
    finally:
        with contextlib.suppress(Exception):  # the user may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _late(pid: int, job: Path) -> FreshProcessDied:
    return FreshProcessDied("the process did not end in the time left", stacks.ask(pid, job.with_suffix(".stack")))
