"""The engine's side of the processes: starting the host and workers, listening, and saying what became of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType

from stabcheck import stacks
from stabcheck.interpreters import command
from stabcheck.protocol import CUT_OFF, FAILED, Channel, Message, Request
from stabcheck.userland import Blame

TICK_SECONDS = 0.5
"""How often the size of the log is looked at."""
LOG_BYTES = 64 * 2**20
"""A target that prints without end must not fill the disk: the log starts anew at this size."""
TAIL_LINES = 20
TAIL_BYTES = 4096
END_SECONDS = 5.0
"""A killed process is gone within milliseconds, unless it hangs in the kernel."""


class HostError(Exception):
    """Workers cannot be started: torch cannot be imported, or the host was killed."""

    def __init__(self, message: str, *, trace: str = "", blame: Blame = "target") -> None:
        super().__init__(message)
        self.message, self.trace, self.blame = message, trace, blame


class WorkerLostError(Exception):
    """The worker ended before it was done (`late` is False), or did not answer in time."""

    def __init__(self, how: str, stack: stacks.Stack, tail: str, *, late: bool, ours: bool = False) -> None:
        super().__init__(how)
        self.how, self.stack, self.tail, self.late, self.ours = how, stack, tail, late, ours


class Host:
    """The process that workers are forked from; it serves any number of runs, one after the other.

    A context manager. Importing torch, which takes a second or more, is under way when the constructor returns.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command("stabcheck.host", "main", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._socket = ours
        self._channel = Channel(ours)
        self._ready = False
        self._ended: dict[int, int] = {}
        self._started: dict[str, int] = {}

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the host and all that it has started."""
        self._socket.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def start(self, request: Request, output: int, until: float) -> Worker:
        """A new worker that is at work on `request`.

        Args:
            output: file descriptor for whatever the target prints.
            until: time.monotonic() to wait for.

        Raises:
            HostError: there is no starting workers here.
        """
        while not self._ready:
            self._listen(until)
        ours, theirs = socket.socketpair()
        files = request.surroundings.files
        with theirs:
            try:
                socket.send_fds(self._socket, [os.fsencode(files)], [theirs.fileno(), output])
            except OSError:
                raise HostError("the process that starts workers is gone") from None
        while files not in self._started:
            self._listen(until)
        worker = Worker(self, self._started.pop(files), Channel(ours), Path(files))
        worker.send(request.to_message())
        return worker

    def code(self, pid: int) -> int | None:
        """How a worker ended, as far as is known; None if it has not."""
        return self._ended.get(pid)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def pull(self) -> None:
        """Read what the host has to say."""
        self._channel.pull()
        while (message := self._channel.next()) is not None:
            if message["type"] == "ready":
                self._ready = True
            elif message["type"] == "started":
                self._started[message["folder"]] = message["pid"]
            elif message["type"] == "ended":
                self._ended[message["pid"]] = message["code"]
            else:
                raise HostError(message["error"], trace=message["trace"], blame=message["blame"])
        if self._channel.closed:
            raise HostError("the process that starts workers is gone")

    def _listen(self, until: float) -> None:
        if not wait([self.fileno()], max(0.0, until - time.monotonic())):
            raise HostError("importing torch took too long")
        self.pull()


class Worker:
    """One worker process."""

    def __init__(self, host: Host, pid: int, channel: Channel, files: Path) -> None:
        self._host, self.pid, self._channel, self._stack = host, pid, channel, stacks.file_of(pid, files)
        self.log: Path | None = None
        """The file that its output goes to, if it is ours to read and to keep small."""

    def send(self, message: Message) -> None:
        """A worker that is gone already is found out by `receive`."""
        with contextlib.suppress(OSError):
            self._channel.send(message)

    def receive(self, until: float) -> Message:
        """The worker's next message.

        Raises:
            WorkerLostError: it has ended, or time.monotonic() has reached `until`.
            HostError: the host is gone.
        """
        while (message := self._channel.next()) is None:
            code = self._host.code(self.pid)
            left = until - time.monotonic()
            if code is not None or left <= 0:
                # It may have said something before, while nobody listened.
                self._channel.drain()
                if (message := self._channel.next()) is not None:
                    return message
                raise self._ended(code) if code is not None else self._late()
            both = [self._host.fileno(), self._channel.fileno()]
            heard = wait(both[:1] if self._channel.closed else both, min(left, TICK_SECONDS))
            if both[0] in heard:
                self._host.pull()
            if both[1] in heard:
                self._channel.pull()
            self._trim_log()
        return message

    def end(self) -> None:
        """Make sure that the worker and what it started are gone."""
        end = time.monotonic() + END_SECONDS
        try:
            while self._host.code(self.pid) is None and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    os.killpg(self.pid, signal.SIGKILL)
                if wait([self._host.fileno()], TICK_SECONDS):
                    self._host.pull()
        except HostError:
            pass  # then nobody tells how the worker ended, but that it did is certain
        finally:
            self._channel.close()

    def finish(self) -> None:
        """Give a worker that is done a moment to leave by itself."""
        until = time.monotonic() + TICK_SECONDS
        with contextlib.suppress(WorkerLostError, HostError):
            while True:
                self.receive(until)

    def _ended(self, code: int) -> WorkerLostError:
        how = stacks.ending(code)
        if code == CUT_OFF:
            how = "the process closed files that are not its own, such as the connection to stabcheck (os.closerange?)"
        return WorkerLostError(how, stacks.of_crash(self._stack, code), self.tail(), late=False, ours=code == FAILED)

    def _late(self) -> WorkerLostError:
        stack = stacks.ask(self.pid, self._stack)
        if stack.is_waiting or not stack.frames:
            # For a worker of the user's DataLoader, it may be.
            others = (stacks.ask(pid, self._stack).since_fork() for pid in stacks.children(self.pid))
            stack = next((other for other in others if other.place is not None), stack)
        return WorkerLostError("the process did not end", stack, self.tail(), late=True)

    def tail(self) -> str:
        """The end of what the target has printed; empty if that is not ours to read."""
        if self.log is None:
            return ""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
        except OSError:
            return ""

    def _trim_log(self) -> None:
        with contextlib.suppress(OSError):
            if self.log is not None and self.log.stat().st_size > LOG_BYTES:
                os.truncate(self.log, 0)
