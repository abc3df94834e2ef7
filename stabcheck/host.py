"""The host: the clean process that workers are forked from. It has imported torch and never runs user code.

So a worker starts within milliseconds, also in place of one that crashed. The host tells the engine how workers
end; and when the engine is gone, for whatever reason, it ends them and whatever they started, and removes
their files.

It is started with the number of a socket as its only argument. Down come the names of directories, each with two file
descriptors (the worker's end of its own socket, and its output); up go messages "ready", "broken", "started" and "ended".
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stabcheck import stacks, worker
from stabcheck.interpreters import command
from stabcheck.protocol import FAILED
from stabcheck.trial.nursery import CAN_FORK

_PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.02
"""How soon the end of a worker is noticed."""
END_SECONDS = 0.3
"""What is left of a worker's process group may take so long to go by itself: multiprocessing's resource tracker
removes semaphores then."""


def main(number: str) -> None:
    """Serve until the engine hangs up."""
    control = socket.socket(fileno=int(number))
    control.set_inheritable(False)
    workers: dict[int, Path] = {}
    _adopt_orphans()
    try:
        if CAN_FORK:
            _preload(control)
        _serve(control, workers)
    finally:  # whatever happens, nothing is left behind
        for pid, folder in workers.items():
            _signal_group(pid, signal.SIGKILL)
            _end_orphans({})
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _preload(control: socket.socket) -> None:
    try:
        worker.preload()
    except BaseException as error:
        # A torch that failed has been taken out again.
        ours = "torch" in sys.modules
        said = f"{'stabcheck cannot be started' if ours else 'torch cannot be imported'}: {error}"
        blame = "stabcheck" if ours else "target"
        _send(control, {"type": "broken", "error": said, "trace": traceback.format_exc(), "blame": blame})
        raise


def _serve(control: socket.socket, workers: dict[int, Path]) -> None:
    _send(control, {"type": "ready"})
    while True:
        if select.select([control], [], [], POLL_SECONDS if workers else None)[0]:
            folder, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
            if not folder:
                return
            pid = (_fork if CAN_FORK else _spawn)(control, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            workers[pid] = Path(os.fsdecode(folder))
            _send(control, {"type": "started", "pid": pid, "folder": os.fsdecode(folder)})
        for pid, status in _dead():
            if workers.pop(pid, None) is not None:
                _send(control, {"type": "ended", "pid": pid, "code": os.waitstatus_to_exitcode(status)})
                _end_group(pid)
                _end_orphans(workers)


def _dead() -> Iterator[tuple[int, int]]:
    """(process id, status) of each child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def _fork(control: socket.socket, connection: int, output: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            become_worker(str(connection), str(output))
        finally:
            os._exit(FAILED)
    with contextlib.suppress(OSError):  # it has done so itself, or is gone
        os.setpgid(pid, pid)
    return pid


def _spawn(control: socket.socket, connection: int, output: int) -> int:
    process = subprocess.Popen(
        command("stabcheck.host", "become_worker", str(connection), str(output)),
        stdin=subprocess.DEVNULL,
        pass_fds=(connection, output),
    )
    process.returncode = 0  # it is waited for by its id
    return process.pid


def become_worker(connection: str, output: str) -> None:
    """Turn this process into a worker with its own process group, whose output goes to the descriptor `output`."""
    os.setpgid(0, 0)
    os.dup2(int(output), 1)
    os.dup2(int(output), 2)
    os.close(int(output))
    os.set_inheritable(int(connection), False)
    worker.main(socket.socket(fileno=int(connection)))


def _adopt_orphans() -> None:
    """On Linux, become the parent of what workers leave behind, even in a session of its own."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_orphans(workers: Iterable[int]) -> None:
    while orphans := set(stacks.children(os.getpid())) - set(workers):
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _end_group(pid: int) -> None:
    """End what a worker has left behind in its process group."""
    if not _signal_group(pid, signal.SIGTERM):
        return
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        for _ in _dead():
            pass
        if not _signal_group(pid, 0):
            return
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> bool:
    """Whether there was such a group."""
    try:
        os.killpg(pid, number)
    except OSError:
        return False
    return True


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")
