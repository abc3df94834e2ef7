"""A run that is not interrupted, with all that is needed to repeat or resume it."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.modes import kept_modes
from stabcheck.trial.resume.compare import is_shaped_like_weights
from stabcheck.trial.resume.cuts import BOUNDARY, MID_EPOCH, Cut, Moment, Run
from stabcheck.trial.resume.state import State, generator_states, sample, set_generators
from stabcheck.trial.resume.walk import Look, look
from stabcheck.trial.rng import kept_rng, rng_state
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

BEFORE, AFTER = 8, 4
"""Steps before the first checkpoint and after each: enough for momentum, counters and running statistics to move
(the omissions in the table of the check's tests all show within them), and a second for a small model."""
_FEWEST = 4
"""A run that is planned to be shorter is tried with so many all the same."""
_PATIENCE = 32
"""Further steps to wait for an update of the weights, so that no checkpoint falls between accumulated gradients, and
for a first change of the rate."""

_COPY_STEPS, _COPY_SECONDS = 2_000, 2.0
"""Steps and time to wait for a first change of a second model of the same shape: a target network is brought up to date
every so many steps, and what has never changed since the start is right without a checkpoint. One that stays as it is (a
teacher, a reference) costs this time."""

_MOST_HELD = 2**28
"""Bytes of recorded batches from which the run is kept short, and of gradients that are kept: they are held in memory
and written to disk."""


def uninterrupted(bench: Bench) -> Run:
    """Train a few steps, save, train on; where there is time and the set-up has its own save, end the epoch there, save
    and train on once more.

    Raises:
        UserCodeError: building, the loader, a step or save raised.
        Skip: the set-up cannot be trained, or not in the time or on the disk that is left.
    """
    session = bench.session()
    found, feed = look(session), Feed(session)
    run = Run(
        start=found.leaves,
        iterators=found.iterators,
        own_checkpoint=session.setup.save is not None,
        own_generator=_has_own_generator(session.setup.train_loader),
        save_source=bench.source(session.setup.save),
        load_source=bench.source(session.setup.load),
    )
    most = _most_steps(session)
    period, seconds = _until_worth_saving(bench, session, found, feed, run, most)
    is_slow = 2 * AFTER * seconds > bench.remaining() / 2 or _held(run) > _MOST_HELD
    run.after = period if is_slow else min(math.ceil(AFTER / period) * period, most - len(run.moments))
    _require(bench, session, 2 * run.after * seconds + bench.load_seconds)
    _cut(bench, session, run, MID_EPOCH, None)
    _continue(session, found, feed, run)
    run.only_one = _why_not_twice(bench, run, is_slow=is_slow, most=most, seconds=seconds)
    if not run.only_one:
        metric = run.moments[-1].loss if run.moments[-1].loss is not None else 0.0
        session.end_epoch(metric)
        _cut(bench, session, run, BOUNDARY, metric)
        _continue(session, found, Feed(session), run)
        if not run.cuts[-1].wrote:
            del run.moments[run.cuts.pop().at :]
            run.only_one = "save() wrote nothing when it was called again"
    return run


def _until_worth_saving(
    bench: Bench, session: Session, found: Look, feed: Feed, run: Run, most: int
) -> tuple[int, float]:
    """Train until an update of the weights after which enough has changed for a checkpoint to miss it, or until it takes too
    long: (steps between the last two updates, seconds a step takes)."""
    started, updates, weights = time.monotonic(), [0], _weights(session)
    # A rate that load() puts back to its start is seen only once the schedule has changed it.
    waits, rates = session.setup.scheduler is not None and session.interval == "step", session.learning_rates()
    patience = min(most // 2, BEFORE + max(_PATIENCE, session.setup.accumulate_steps))
    longest = min(most // 2, _COPY_STEPS)
    copies = idle_copies(found) if run.own_checkpoint else {}
    while len(run.moments) < (longest if copies else patience):
        _advance(session, found, feed, run)
        now = _weights(session)
        if not torch.equal(now, weights):
            weights = now
            updates.append(len(run.moments))
        is_long = time.monotonic() - started > bench.remaining() / 4 or _held(run) > _MOST_HELD
        if copies:
            in_time = time.monotonic() - started < min(_COPY_SECONDS, bench.remaining() / 8)
            copies = {part: copy for part, copy in copies.items() if in_time and _is_idle(copy)}
            patience = max(patience, len(run.moments) + session.setup.accumulate_steps)
        enough = len(run.moments) >= BEFORE and not copies and not (waits and session.learning_rates() == rates)
        if updates[-1] == len(run.moments) and (enough or is_long):
            break
    period = updates[-1] - updates[-2] if len(updates) > 1 else 1
    return period, (time.monotonic() - started) / len(run.moments)


def again(bench: Bench, run: Run) -> tuple[list[float | None], list[State], list[State]]:
    """The same run once more, without saving: its losses, and its states at each cut and `after` steps later.

    Where they differ before the first cut, the run does not repeat itself.
    """
    session = bench.session()
    found = look(session)
    losses: list[float | None] = []
    at_cuts: list[State] = []
    ends: list[State] = []
    for index, moment in enumerate(run.moments):
        for cut in run.cuts:
            if cut.at == index:
                if cut.epoch_metric is not None:
                    session.end_epoch(cut.epoch_metric)
                at_cuts.append(look(session).leaves)
        losses.append(take(session, found, moment))
        for cut in run.cuts:
            if cut.at + run.after == index + 1:
                ends.append(look(session).leaves)
                eval_loss(session, moment.batch)
    return losses, at_cuts, ends


def take(session: Session, found: Look, moment: Moment) -> float | None:
    """One recorded step, taken again. Raises `UserCodeError` as the step does."""
    if moment.metric is not None:
        session.end_epoch(moment.metric)
    moment.rng.restore()
    set_generators(found.generators, moment.generators)
    return session.step(batches.clone(moment.batch))


def eval_loss(session: Session, batch: Any) -> float | None:
    """The loss in eval mode, which sees the state that training does not read; None if it cannot be had."""
    if session.setup.loss_fn is None and session.setup.compute_loss is None:
        return None
    try:
        with kept_modes(session.model), kept_rng(0), torch.no_grad():
            session.model.eval()
            return float(session.loss(batches.clone(batch)).detach())
    except UserCodeError:  # a loss that works in training mode or with gradients only
        return None


class Feed:
    """Batches without end from the user's loader."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pass: Iterator[Any] = session.epoch()

    def draw(self, last_loss: float | None) -> tuple[Any, float | None]:
        """The next batch, and the metric given to `end_epoch` if the loader had to be started again."""
        for batch in self._pass:
            return batch, None
        metric = last_loss if last_loss is not None else 0.0
        self._session.end_epoch(metric)
        self._pass = self._session.epoch()
        for batch in self._pass:
            return batch, metric
        raise UserCodeError("train_loader", "it yields no batch: is the dataset empty?")


def _advance(session: Session, found: Look, feed: Feed, run: Run) -> None:
    batch, metric = feed.draw(run.moments[-1].loss if run.moments else None)
    moment = Moment(batches.clone(batch), metric, rng_state(), generator_states(found.generators))
    moment.loss = session.step(batch)
    run.moments.append(moment)


def _continue(session: Session, found: Look, feed: Feed, run: Run) -> None:
    for _ in range(run.after):
        _advance(session, found, feed, run)
    run.cuts[-1].end = look(session).leaves
    run.cuts[-1].eval_loss = eval_loss(session, run.moments[-1].batch)


def _cut(bench: Bench, session: Session, run: Run, name: str, epoch_metric: float | None) -> None:
    folder = Path(tempfile.mkdtemp(dir=bench.scratch, prefix="checkpoint-"))
    path = folder / "checkpoint.pt"
    before = look(session).leaves
    session.save(path)
    found = look(session)
    run.cuts.append(
        Cut(
            name=name,
            at=len(run.moments),
            path=str(path),
            rng=rng_state(),
            generators=generator_states(found.generators),
            gradients=_gradients(found),
            scaler=session.scaler.state_dict() if session.scaler else {},
            before=before,
            saved=found.leaves,
            wrote=sum(file.stat().st_size for file in files(folder)),
            epoch_metric=epoch_metric,
        )
    )


def _gradients(found: Look) -> dict[str, torch.Tensor]:
    items = {path: slot.get() for path, slot in found.slots.items() if found.leaves[path].kind in {"weight", "module"}}
    given = {p: x.grad for p, x in items.items() if isinstance(x, nn.Parameter) and x.grad is not None}
    if sum(grad.numel() * grad.element_size() for grad in given.values()) > _MOST_HELD:
        return {}
    return {path: grad.detach().clone() for path, grad in given.items()}


def _weights(session: Session) -> torch.Tensor:
    """A few elements of every trainable parameter: enough to see whether a step updated any."""
    parts = [p.detach().reshape(-1)[:64].float().cpu() for p in session.model.parameters() if _is_trained(p)]
    return torch.cat(parts) if parts else torch.zeros(0)


def _is_trained(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and not is_lazy(parameter)


def _held(run: Run) -> int:
    """Bytes of the recorded batches."""
    return sum(t.numel() * t.element_size() for moment in run.moments for t in batches.tensors(moment.batch))


def _most_steps(session: Session) -> int:
    """Calls of step in the whole real run: some schedules raise when they are stepped further."""
    by_schedule = getattr(session.setup.scheduler, "total_steps", None) if session.interval == "step" else None
    ends = [end for end in (session.planned_steps, by_schedule) if end]
    return max(_FEWEST, min(ends) * session.setup.accumulate_steps) if ends else 10**9


def _why_not_twice(bench: Bench, run: Run, *, is_slow: bool, most: int, seconds: float) -> str:
    if not run.own_checkpoint:
        return "the textbook checkpoint is tried once"
    if not run.cuts[0].wrote:  # its second checkpoint may overwrite the first
        return "save() writes elsewhere than to the path it is given"
    if len(run.moments) + run.after > most:
        return "the planned run is too short"
    if is_slow or 3 * bench.load_seconds + 3 * run.after * seconds > bench.remaining() / 2:
        return "the time that is left is too short"
    return ""


def _require(bench: Bench, session: Session, seconds: float) -> None:
    if seconds > bench.remaining():
        raise Skip(
            f"saving and resuming takes about {seconds:.0f} s and {max(bench.remaining(), 0):.0f} s of --budget are left"
        )
    # Weights, and two moments for each, in two checkpoints.
    needed = 6 * sum(p.numel() * p.element_size() for p in session.model.parameters() if not is_lazy(p))
    free = shutil.disk_usage(bench.scratch).free
    if needed > free:
        raise Skip(f"two checkpoints may take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB of disk are free")


def _has_own_generator(loader: Any) -> bool:
    sampler = getattr(loader, "sampler", None)
    return isinstance(getattr(loader, "generator", None) or getattr(sampler, "generator", None), torch.Generator)


def idle_copies(found: Look) -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    """What lies beside the model and has the shapes of its weights, by part: each tensor with its values of now."""
    parts: dict[str, list[str]] = {}
    for path, leaf in found.leaves.items():
        if leaf.kind in {"module", "tensor"} and path in found.slots and leaf.shape is not None:
            parts.setdefault(leaf.part, []).append(path)
    alike = {part: paths for part, paths in parts.items() if is_shaped_like_weights(paths, found.leaves)}
    return {part: [(found.slots[p].get(), found.leaves[p].value) for p in paths] for part, paths in alike.items()}


def _is_idle(copy: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return all(torch.equal(sample(tensor), before) for tensor, before in copy)


def files(folder: Path) -> list[Path]:
    """All files in the folder and below."""
    return [file for file in folder.rglob("*") if file.is_file()]
