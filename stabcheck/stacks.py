"""Where a process is, or was when it crashed, and how it ended.

Stacks are written by faulthandler, which needs neither the interpreter lock nor a living interpreter: a
process calls `arm(path)` once; `ask`, or a crash, has its stack appended to that file.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from stabcheck.userland import is_users

DUMP_SIGNAL: int = signal.SIGRTMIN + 1 if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGUSR1", 0)
"""Asks a process for its stack. Training scripts take SIGUSR1 and SIGUSR2 for themselves (pre-emption by a scheduler),
so it is a real-time signal where there are such."""

ANSWER_SECONDS = 1.0
"""A signal is answered within milliseconds, unless the process hangs in the kernel (a dead network drive)."""

_SIGKILL = 9
_THREAD = re.compile(r"^(Current thread|Thread) 0x.*$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(?P<file>.+?)", line (?P<line>\d+) in (?P<name>.+)$', re.MULTILINE)
_ENDINGS = {
    "SIGKILL": "the process was killed (signal 9), most often because memory ran out: try a smaller batch or dataset",
    "SIGBUS": "the process crashed with SIGBUS, most often because /dev/shm is full: use fewer DataLoader workers",
    "SIGTERM": "the process was ended by SIGTERM",
}
_WAITING = {
    "connection", "popen_fork", "process", "queue", "queues", "selectors", "subprocess", "synchronize", "threading",
}  # fmt: skip
"""Modules of the standard library in which one waits for others."""


@dataclass(frozen=True)
class Stack:
    """The frames of one thread, innermost first, as (file, line, function)."""

    frames: tuple[tuple[str, int, str], ...]

    @property
    def place(self) -> tuple[str, int] | None:
        """File and line of the innermost frame of the user's; None if none of their code is running."""
        return next(((file, line) for file, line, _ in self.frames if is_users(file)), None)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for another process or thread."""
        return bool(self.frames) and Path(self.frames[0][0]).stem in _WAITING

    def since_fork(self) -> Stack:
        """Without the frames of the process that it was forked from by multiprocessing."""
        names = [name for _, _, name in self.frames]
        return Stack(self.frames[: names.index("_bootstrap")]) if "_bootstrap" in names else self

    def __str__(self) -> str:
        """As a traceback, from the outermost frame of the user's on."""
        outer = max((depth for depth, frame in enumerate(self.frames) if is_users(frame[0])), default=len(self.frames))
        shown = reversed(self.frames[: outer + 1])
        lines = [f'  File "{file}", line {line}, in {name}' for file, line, name in shown]
        return "\n".join(["Stack (most recent call last):", *lines]) if lines else ""


def arm(path: Path) -> None:
    """Have this process append its stack to `path` when it crashes or gets `DUMP_SIGNAL`."""
    file = path.open("a")
    faulthandler.enable(file)
    if hasattr(faulthandler, "register"):
        faulthandler.register(DUMP_SIGNAL, file, all_threads=True)


def file_of(pid: int, folder: Path) -> Path:
    """Where a worker's stack is written."""
    return folder / f"stack-{pid}.txt"


def ask(pid: int, path: Path) -> Stack:
    """The stack of the main thread of a living process that is armed with `path`; empty if it does not answer."""
    before = _size(path)
    try:
        os.kill(pid, DUMP_SIGNAL)
    except OSError:
        return Stack(())
    end = time.monotonic() + ANSWER_SECONDS
    seen = before
    while time.monotonic() < end:
        time.sleep(0.02)
        size = _size(path)
        if size == seen > before:
            break
        seen = size
    return _main_thread(_read(path)[before:])


def of_crash(path: Path, code: int) -> Stack:
    """The stack of the thread that crashed, from the file of a process that ended with `code`; empty if it left none."""
    if code >= 0 or code == -_SIGKILL:
        return Stack(())  # what is in the file is of a child of its own
    text = _read(path)
    start = text.rfind("Fatal Python error")
    return _crashed_thread(text[start:]) if start >= 0 else Stack(())


def ending(code: int) -> str:
    """What an exit code (negative for a signal) says, and what to do: "the process crashed with SIGSEGV"."""
    if code >= 0:
        return f"the process ended with exit code {code} (os._exit, or an exit in a C library)"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"the process was ended by signal {-code}"
    return _ENDINGS.get(name, f"the process crashed with {name}")


def children(pid: int) -> list[int]:
    """Processes that `pid` started, and theirs; empty where the system does not tell."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def _main_thread(text: str) -> Stack:
    # Threads are listed newest first.
    blocks = _THREAD.split(text)
    return _parse(blocks[-1])


def _crashed_thread(text: str) -> Stack:
    blocks = _THREAD.split(text)
    named = dict(zip(blocks[1::2], blocks[2::2], strict=False))
    return _parse(named.get("Current thread", ""))


def _parse(block: str) -> Stack:
    return Stack(tuple((match["file"], int(match["line"]), match["name"]) for match in _FRAME.finditer(block)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
