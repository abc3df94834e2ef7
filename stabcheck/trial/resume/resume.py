"""A saved run, loaded in a fresh process and continued.

Resumed runs are fed the batches of the uninterrupted one, each under the random state that its step had, and start with
the gradients that were left then: what still differs is state that the checkpoint did not bring back. (On the CPU such
a run is bit-equal for every optimizer and layer tried.) Data order is looked at separately, afterwards.
"""

from __future__ import annotations

import ast
import gc
import math
import mmap
import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stabcheck.loading import EntryPoint
from stabcheck.trial.bench import Bench
from stabcheck.trial.elsewhere import load_here
from stabcheck.trial.resume.cuts import BOUNDARY, Cut, Moment, Run
from stabcheck.trial.resume.state import Leaf, State, fingerprint, generator_states, set_generators
from stabcheck.trial.resume.uninterrupted import AFTER, Feed, eval_loss, files, take
from stabcheck.trial.resume.walk import Look, look
from stabcheck.trial.rng import RngState, rng_state, seed_all
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError


@dataclass
class Resumed:
    """A run that was loaded in a fresh process and continued."""

    error: dict[str, Any] | None = None
    """What the user's code raised, in load or in a step after it."""
    is_loaded: bool = False
    """load returned."""
    fresh: State = field(default_factory=dict)
    """The state before load."""
    loaded: State = field(default_factory=dict)
    end: State = field(default_factory=dict)
    losses: list[float | None] = field(default_factory=list)
    eval_loss: float | None = None
    rng: RngState | None = None
    """Random state when load returned."""
    generators: dict[str, Any] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """Fingerprints of the batches that its own loader gives next."""


def resume(bench: Bench, run: Run, cuts: list[Cut], trials: list[list[str]] | None = None) -> list[Resumed]:
    """Load each cut in a fresh process and continue it.

    Args:
        cuts: the cuts to resume from.
        trials: instead of one plain run per cut, one per list of paths, whose values of the uninterrupted run are put
            in place after loading.

    Raises:
        UserCodeError: building the set-up failed there, or the process died.
    """
    gc.collect()  # the uninterrupted set-up makes room for the fresh one
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    jobs = [
        (_trimmed(cut, paths), run.moments[cut.at : cut.at + run.after], paths, trials is None)
        for cut in cuts
        for paths in trials or [[]]
    ]
    with tempfile.TemporaryDirectory(dir=bench.scratch, prefix="resume-", ignore_cleanup_errors=True) as folder:
        payload, answer = Path(folder) / "payload.pt", Path(folder) / "answer.pt"
        try:
            torch.save(jobs, payload)
        except Exception:  # batches that no file can hold
            torch.save([(cut, [], paths, with_order) for cut, _, paths, with_order in jobs], payload)
        job = {
            "target": bench.entry.target,
            "texts": bench.entry.texts,
            "folder": bench.entry.folder,
            "seed": bench.seed,
            "device": str(bench.device) if bench.device else None,
            "threads": torch.get_num_threads(),
            "payload": str(payload),
            "answer": str(answer),
        }
        bench.nursery.run("stabcheck.trial.resume.resume:resumed", job)
        # Our own file, written a moment ago.
        results: list[Resumed] = torch.load(answer, weights_only=False)
    return results


def resumed(job: dict[str, Any]) -> None:
    """What happens in the fresh process; see `resume`."""
    entry = load_here(job)
    device = torch.device(job["device"]) if job["device"] else None
    jobs = torch.load(job["payload"], weights_only=False)
    torch.save([_resume_one(entry, job["seed"], device, *one) for one in jobs], job["answer"])


def next_batches(run: Run, cut: Cut, result: Resumed) -> str | None:
    """What the resumed loader gives next: "exact", the batches that would have come; "restarts", those of the first epoch
    again; "other"; None if it was not looked at."""
    count = len(result.order)
    if not count:
        return None
    if result.order == run.order(cut.at)[:count]:
        return "exact"
    return "restarts" if result.order == run.order(0)[:count] else "other"


def restarts(run: Run, results: list[Resumed]) -> bool:
    """Whether a resumed process begins an epoch with the batches of the first, where another order was due."""
    pairs = zip(run.cuts, results, strict=True)
    return any(next_batches(run, cut, result) == "restarts" for cut, result in pairs if cut.name == BOUNDARY)


def holds(path: str, state: torch.Tensor) -> bool:
    """Whether the bytes of a generator's state are in the checkpoint, in whatever format it was written."""
    needle = state.numpy().tobytes()
    for file in files(Path(path).parent):
        if file.stat().st_size >= len(needle):
            with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(needle) >= 0:
                    return True
    return False


def _resume_one(
    entry: EntryPoint,
    seed: int,
    device: torch.device | None,
    cut: Cut,
    moments: list[Moment],
    paths: list[str],
    with_order: bool,
) -> Resumed:
    seed_all(seed)
    session = Session(entry.build(), device)
    fresh = look(session)
    result = Resumed(fresh=fresh.leaves)
    try:
        session.load(Path(cut.path))
        result.is_loaded, result.rng = True, rng_state()
        _follow(session, fresh)
        found = look(session)
        result.loaded, result.generators = found.leaves, generator_states(found.generators)
        _put(found, cut, paths)
        if session.scaler:
            session.scaler.load_state_dict(cut.scaler)
        result.losses = [take(session, found, moment) for moment in moments]
    except UserCodeError as error:
        refused = re.search(r"GLOBAL (\S+) was not an allowed global", str(error.__cause__))
        message = f"weights_only=True refuses {refused[1]}, which it holds" if refused else error.message
        result.error = {"stage": error.stage, "message": message, "file": error.file, "line": error.line}
        return result
    result.end = look(session).leaves
    if moments:
        result.eval_loss = eval_loss(session, moments[-1].batch)
    if with_order:
        result.rng.restore()
        set_generators(found.generators, result.generators)
        feed = Feed(session)
        result.order = [fingerprint(feed.draw(None)[0]) for _ in range(len(moments) or AFTER)]
    return result


def _trimmed(cut: Cut, paths: list[str]) -> Cut:
    """The cut without the states that the fresh process does not need."""
    return replace(cut, before={}, end={}, saved={path: cut.saved[path] for path in paths})


def _put(found: Look, cut: Cut, paths: list[str]) -> None:
    """Gradients are no part of a checkpoint: those left by the last step are given back, so that a step which forgets
    to clear them is not taken for a bad checkpoint. `paths` get their values of the uninterrupted run."""
    set_generators(found.generators, cut.generators)
    for path, gradient in cut.gradients.items():
        parameter = found.slots[path].get() if path in found.slots else None
        if isinstance(parameter, nn.Parameter) and parameter.shape == gradient.shape:
            parameter.grad = gradient.clone()
    for path in paths:
        leaf = cut.saved[path]
        if path in found.slots and (leaf.shape is None or leaf.value.numel() == math.prod(leaf.shape)):
            value = leaf.value.reshape(leaf.shape).clone() if leaf.shape is not None else leaf.value
            found.slots[path].put(value)
        elif path not in found.slots:
            _add(found, path, leaf)


def _add(found: Look, path: str, leaf: Leaf) -> None:
    """Put what is not there yet into the dictionary or list that it was in."""
    around, _, label = path.removesuffix("]").rpartition("[")
    items = found.containers.get(around)
    if items is None or (leaf.shape is not None and leaf.value.numel() != math.prod(leaf.shape)):
        return
    value = leaf.value.reshape(leaf.shape).clone() if leaf.shape is not None else leaf.value
    if not isinstance(items, dict):
        items.append(value)
    elif label[:1] in "'\"-0123456789":
        items[ast.literal_eval(label)] = value


def _follow(session: Session, fresh: Look) -> None:
    """A load that binds new objects to the user's own names: the user's step trains those from now on."""
    if session.setup.train_step is None:
        return
    for key, slots in fresh.aliases.items():
        known, now = getattr(session.setup, key), slots[0].get()
        if now is not known and isinstance(now, nn.Module) == isinstance(known, nn.Module) and now is not None:
            setattr(session.setup, key, now)
    session.model = session.setup.model
