"""What the engine and a worker say to each other: JSON, one message a line, over a private socket.

Down goes one `Request`. Up come messages, each with a "type":

* started (stage: "load", "trial" or the id of a check), progress (stage, fraction, detail)
* loaded (seconds, facts), recorded (recording), result (result, not_checked)
* failed (stage: "load" or "trial", error or skip_reason)
* done
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

Message = dict[str, Any]

FAILED = 70
"""Exit code of a worker whose own code failed (EX_SOFTWARE)."""
CUT_OFF = 75
"""Exit code of a worker that has lost the socket (EX_TEMPFAIL)."""
ACTIVE = "STABCHECK_WORKER"
"""Set in the environment of workers: a target that itself calls stabcheck.run when it is imported would go on for ever."""

TRIAL_SHARE = 0.6
"""Of the budget, so that a slow set-up still leaves something to the experiments."""
WIND_UP = 2 / 3
"""Share of its time after which a stage is asked to come to an end, before it is ended by force. The rest is for what
cannot be interrupted: one step, one pass over a loader."""
GRACE_SHARE = 0.1
"""Of the budget, for what was under way when it was spent."""


@dataclass(frozen=True)
class Surroundings:
    """What a process of the engine's would find: the worker takes it over."""

    folder: str
    """The current directory."""
    path: tuple[str, ...]
    """sys.path"""
    environment: dict[str, str]
    files: str
    """A directory for our own files and the target's."""


@dataclass(frozen=True)
class Request:
    """All that a worker needs to know."""

    target: str
    arguments: dict[str, str]
    checks: tuple[str, ...]
    """The experiments to run, in this order, as "module:name"."""
    trial: str | None
    """The function that records the trial, as "module:name"; None if there is to be none."""
    recording: str | None
    """What an earlier worker recorded, as JSON."""
    seed: int
    steps: int
    device: str | None
    budget: float
    """Seconds for the trial and all checks together."""
    left: float
    """Seconds of it that are left."""
    reloading: bool
    """Whether loading counts against the budget: only the first time does it not."""
    check_timeout: float
    thresholds: dict[str, dict[str, float]]
    """Id of a check -> named numbers of its file -> their values."""
    surroundings: Surroundings

    def to_message(self) -> Message:
        """As one message."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Message) -> Request:
        """What `to_message` made."""
        around = message["surroundings"]
        return cls(
            **{
                **message,
                "checks": tuple(message["checks"]),
                "surroundings": Surroundings(**{**around, "path": tuple(around["path"])}),
            }
        )


@dataclass(frozen=True)
class Allowance:
    """Seconds that a stage may take."""

    soft: float
    """When the stage's own clock runs out: it is to return what it has."""
    hard: float
    """When it is ended."""
    by_budget: bool
    """Whether it is the budget that ends it, or the limit of the stage itself."""


def allowance(stage: str, budget: float, check_timeout: float, left: float) -> Allowance:
    """What the trial or a check may take with `left` seconds of the budget to go."""
    limit = TRIAL_SHARE * budget if stage == "trial" else check_timeout
    rest = left + GRACE_SHARE * budget
    return Allowance(min(WIND_UP * limit, left), min(limit, rest), by_budget=rest < limit)


class Channel:
    """One end of the socket. Messages may be sent from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._rest = b""
        self.closed = False
        """Whether the other end was closed."""

    def send(self, message: Message) -> None:
        """Raises OSError if the other end is gone."""
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def pull(self, flags: int = 0) -> None:
        """Read what is there, or wait for something."""
        try:
            read = self._connection.recv(1 << 16, flags)
        except BlockingIOError:
            return
        except OSError:  # the other process was killed in mid-sentence
            read = b""
        self.closed = not read
        *lines, self._rest = (self._rest + read).split(b"\n")
        self._waiting.extend(json.loads(line) for line in lines)

    def next(self) -> Message | None:
        """The next message that has been read; None if there is none."""
        return self._waiting.popleft() if self._waiting else None

    def drain(self) -> None:
        """Read all that is there, without waiting."""
        while not self.closed:
            had = len(self._rest), len(self._waiting)
            self.pull(socket.MSG_DONTWAIT)
            if had == (len(self._rest), len(self._waiting)):
                return

    def wait(self) -> Message | None:
        """The next message, waited for; None if the other end was closed."""
        while not self._waiting and not self.closed:
            self.pull()
        return self.next()

    def fileno(self) -> int:
        """For `select`."""
        return self._connection.fileno()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
