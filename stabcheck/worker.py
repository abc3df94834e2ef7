"""The worker: loads the target, records the trial and runs the experiments, in a process that may come to harm.

`work` is all of that as a generator of messages (see `protocol`); `main` is the process around it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabcheck import stacks, thresholds
from stabcheck.check import Check, Skip
from stabcheck.judging import Judged, error_of, judge, skipped
from stabcheck.loading import load_entry
from stabcheck.protocol import ACTIVE, CUT_OFF, FAILED, Channel, Message, Request, Surroundings, allowance
from stabcheck.report import CheckError
from stabcheck.targets import TargetError
from stabcheck.userland import UserCodeError, is_request_to_stop, userland

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.nursery import Nursery
    from stabcheck.trial.session import Session

Tell = Callable[[str, float | None, str], None]

TELL_SECONDS = 0.1
"""Progress is told no more often: a fast trial takes a thousand steps a second."""


def preload() -> None:
    """Import what every worker needs. The first optimizer would import torch._dynamo."""
    for module in ("torch._dynamo", "stabcheck.trial.ambience", "stabcheck.trial.recorder"):
        importlib.import_module(module)
    # What is here now is here to stay: no need to look through it again, in this process or a fork of it.
    gc.freeze()


def work(request: Request, tell: Tell, nursery: Nursery, scratch: Path, *, contained: bool) -> Iterator[Message]:
    """Do what the request says, and say what happened.

    Args:
        tell: called with (stage, fraction, detail) while something is under way.
        scratch: a directory for whatever the target writes.
        contained: whether the process is our own, so that not even a KeyboardInterrupt is a person's.
    """
    worker = _Work(request, tell, nursery, scratch, contained)
    yield from worker.load()
    if worker.bench is None:
        return
    yield from worker.record()
    for reference in request.checks:
        yield from worker.run(_resolve(reference))


class _Work:
    def __init__(self, request: Request, tell: Tell, nursery: Nursery, scratch: Path, contained: bool) -> None:
        self.request, self.tell, self.nursery, self.scratch, self.contained = request, tell, nursery, scratch, contained
        self.bench: Bench | None = None
        self.deadline = time.monotonic() + request.left

    def load(self) -> Iterator[Message]:
        from stabcheck.trial.ambience import Ambience
        from stabcheck.trial.bench import Bench
        from stabcheck.trial.constructions import Constructions
        from stabcheck.trial.rng import seed_all

        yield {"type": "started", "stage": "load"}
        request, began = self.request, time.monotonic()
        try:
            device = _device(request.device)
            seed_all(request.seed)
            built = Constructions()
            with built.noting():
                entry = load_entry(request.target, request.arguments)
            bench = Bench(entry, request.seed, self.scratch, self.nursery, device=device, built=built)
            facts = _facts(bench.prepare()) | {"entry": bench.places.get("entry")}
        except BaseException as error:
            yield self._failed("load", error)
            return
        self.ambience = Ambience.now()
        if not request.reloading:
            self.deadline = time.monotonic() + request.left
        self.bench = bench
        yield {"type": "loaded", "seconds": time.monotonic() - began, "facts": facts}

    def record(self) -> Iterator[Message]:
        from stabcheck import recording

        if self.request.recording is not None:
            self._bench.recording = recording.from_json(self.request.recording)
        if self.request.trial is None:
            return
        yield {"type": "started", "stage": "trial"}
        self._begin("trial")
        try:
            found = _function(self.request.trial)(self._bench, steps=self.request.steps)
            text = recording.to_json(found)
        except BaseException as error:
            yield self._failed("trial", error)
            return
        self._bench.recording = found
        yield {"type": "recorded", "recording": text}

    def run(self, check: Check) -> Iterator[Message]:
        if check.needs_trial and self._bench.recording is None:
            return
        if self.deadline <= time.monotonic():
            yield _result(Judged(skipped(check, f"did not fit --budget {self.request.budget:g} s")))
            return
        yield {"type": "started", "stage": check.id}
        self._begin(check.id)
        with thresholds.changed([check], self.request.thresholds):
            judged = judge(check, self._bench, contained=self.contained)
        yield _result(judged)
        shutil.rmtree(self._bench.scratch, ignore_errors=True)

    def _begin(self, stage: str) -> None:
        from stabcheck.trial.rng import seed_all

        bench = self._bench
        self.ambience.restore()
        seed_all(self.request.seed)
        now = time.monotonic()
        allowed = allowance(stage, self.request.budget, self.request.check_timeout, self.deadline - now)
        bench.deadline = now + allowed.soft
        self.nursery.deadline = now + (allowed.soft + allowed.hard) / 2
        bench.tell = lambda fraction, detail: self.tell(stage, fraction, detail)
        bench.scratch = self.scratch / stage
        bench.scratch.mkdir(parents=True, exist_ok=True)

    def _failed(self, stage: str, error: BaseException) -> Message:
        if not self.contained and is_request_to_stop(error):
            raise error
        if isinstance(error, Skip):
            return {"type": "failed", "stage": stage, "skip_reason": error.reason}
        if isinstance(error, TargetError):
            problem = CheckError(blame="target", stage="TARGET", message=str(error))
        else:
            problem = error_of(error, "loading" if stage == "load" else stage)
        return {"type": "failed", "stage": stage, "error": problem.model_dump()}

    @property
    def _bench(self) -> Bench:
        assert self.bench is not None
        return self.bench


def _result(judged: Judged) -> Message:
    not_checked = [[item.what, item.why] for item in judged.not_checked]
    return {"type": "result", "result": judged.result.model_dump(), "not_checked": not_checked}


def _function(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def _resolve(reference: str) -> Check:
    check = _function(reference)
    if not isinstance(check, Check):
        raise TypeError(f"{reference} is a {type(check).__name__}, not a Check")
    return check


def _device(name: str | None) -> Any:
    import torch

    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise TargetError(f"--device {name}: not to be had here ({str(error).splitlines()[0]})") from None
    return device


def _facts(session: Session) -> dict[str, Any]:
    import torch

    from stabcheck.setup import KEYS, TrainingSetup

    setup = session.setup
    defaults = TrainingSetup(model=None, train_loader=None)
    sizes = [(0 if torch.nn.parameter.is_lazy(p) else p.numel(), p.requires_grad) for p in setup.model.parameters()]
    return {
        "model": type(setup.model).__name__,
        "parameters": sum(size for size, _ in sizes),
        "trainable": sum(size for size, trainable in sizes if trainable),
        "keys": [key for key in KEYS if getattr(setup, key) is not getattr(defaults, key)],
        "train_batches": _length(setup.train_loader),
        "val_batches": _length(setup.val_loader),
        "optimizer": type(setup.optimizer).__name__ if setup.optimizer is not None else None,
        "scheduler": type(setup.scheduler).__name__ if setup.scheduler is not None else None,
        "device": str(session.device),
        "torch": torch.__version__,
    }


def _length(loader: Any) -> int | None:
    try:
        with userland("len(loader)"):
            return len(loader)
    except UserCodeError:  # an iterable dataset has none
        return None


# --- the process


def main(connection: socket.socket) -> None:
    """Serve one request, which is read from `connection`, in this process, and leave it."""
    code = FAILED
    try:
        _serve(Channel(connection))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # No atexit handlers and no waiting for threads: they are the user's, and may hang.
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _serve(channel: Channel) -> None:
    message = channel.wait()
    if message is None:
        return
    request = Request.from_message(message)
    files = Path(request.surroundings.files)
    # A worker before this one may have cleared the directory for temporary files.
    files.mkdir(parents=True, exist_ok=True)
    stacks.arm(stacks.file_of(os.getpid(), files))
    _settle(request.surroundings, request.target)
    preload()
    # From here on: the user's folders stay as they are.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    from stabcheck.trial.nursery import Nursery

    nursery = Nursery(files=files)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=files))
    sender = _Sender(channel)
    for message in work(request, sender.tell, nursery, scratch, contained=True):
        sender.send(message)
    nursery.close()
    sender.send({"type": "done"})


def _settle(around: Surroundings, target: str) -> None:
    os.chdir(around.folder)
    if dict(os.environ) != around.environment:
        os.environ.clear()
        os.environ.update(around.environment)
    os.environ[ACTIVE] = "1"
    sys.path += [entry for entry in around.path if entry not in sys.path]
    sys.argv[:] = [target.rpartition(":")[0]]


class _Sender:
    def __init__(self, channel: Channel) -> None:
        self._channel, self._process, self._told = channel, os.getpid(), 0.0

    def send(self, message: Message) -> None:
        if os.getpid() != self._process:
            os._exit(FAILED)  # a fork made by the user's code that came back into ours
        try:
            self._channel.send(message)
        except OSError:  # the user's code has closed it, or the engine is gone
            os._exit(CUT_OFF)

    def tell(self, stage: str, fraction: float | None, detail: str) -> None:
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self.send({"type": "progress", "stage": stage, "fraction": fraction, "detail": detail})
