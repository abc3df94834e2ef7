"""The same set-up built and trained twice from the same seed: what differs first, and by how much."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from stabcheck.check import Skip
from stabcheck.trial.batches import tensors
from stabcheck.trial.bench import Bench
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.norms import dense
from stabcheck.trial.rng import kept_rng, rng_state
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

PATIENCE = 2.0
"""Seconds after which the first run takes no further step; the second takes as many."""


@dataclass
class SeededRun:
    """One set-up from its making to a few steps later."""

    weights: dict[str, bytes]
    """Digest of each parameter and buffer at the start."""
    batches: list[bytes] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    generators: list[str] = field(default_factory=list)
    """Digest of the states of all global generators after each step."""
    after: dict[str, torch.Tensor] = field(default_factory=dict)
    """Parameters at the end."""
    forward_repeats: bool | None = None
    """Whether the loss of the first batch, in eval mode and from one seed, comes out the same twice."""


def run_from_seed(bench: Bench, steps: int, *, again: bool = False) -> SeededRun:
    """Build the set-up and take a few steps, fewer where they are slow, all generators seeded just before and left alone.
    Whether the forward repeats is not asked `again`.

    Raises:
        Skip: there is no time to build it.
        UserCodeError: the loader or the step raised.
    """
    session = bench.session()
    seen = SeededRun({name: digest(t) for name, t in _state(session)})
    started = time.monotonic()
    for index, (_, batch) in enumerate(session.train_batches()):
        if index == 0 and not again:
            seen.forward_repeats = _repeats(session, batch, bench.seed)
        seen.batches.append(digest(*tensors(batch)))
        try:
            loss = session.step(batch)
        except Skip:  # nothing says how it trains: weights and data can be compared all the same
            loss = None
        if loss is not None:
            seen.losses.append(loss)
        seen.generators.append(_generators())
        if index + 1 >= steps or (not again and time.monotonic() - started > PATIENCE):
            break
    seen.after = {name: p.detach().clone() for name, p in session.model.named_parameters() if not is_lazy(p)}
    return seen


def _generators() -> str:
    state = rng_state()
    _, numbers, *place = state.numpy_state
    words = repr((state.python_state, numbers.tobytes(), place)).encode()
    return digest(state.torch_state, *state.cuda_states).hex() + blake2b(words, digest_size=16).hexdigest()


def digest(*parts: torch.Tensor) -> bytes:
    """16 bytes that are equal where all values, types and shapes are."""
    found = blake2b(digest_size=16)
    for part in parts:
        values = dense(part).cpu().contiguous()
        found.update(f"{values.dtype}{tuple(values.shape)}".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()


def _state(session: Session) -> list[tuple[str, torch.Tensor]]:
    model = session.model
    return [(name, t) for name, t in (*model.named_parameters(), *model.named_buffers()) if not is_lazy(t)]


def _repeats(session: Session, batch: Any, seed: int) -> bool | None:
    """None if the loss cannot be had outside the user's step."""
    with undisturbed(session.model), kept_rng():
        session.model.eval()
        losses = []
        for _ in range(2):
            try:
                with kept_rng(seed):
                    losses.append(float(session.loss(batch).detach()))
            except (UserCodeError, Skip):
                return None
    return losses[0] == losses[1] or all(map(math.isnan, losses))


def apart(one: SeededRun, two: SeededRun) -> tuple[float, float]:
    """Largest difference of the losses, and of the weights after the last step, relative to their size."""
    losses = [_relative(abs(a - b), abs(a)) for a, b in zip(one.losses, two.losses, strict=False)]
    weights = [
        _relative(float((a - two.after[name]).norm()), float(a.norm()))
        for name, a in one.after.items()
        if name in two.after and two.after[name].shape == a.shape and a.is_floating_point()
    ]
    return max(losses, default=0.0), max(weights, default=0.0)


def _relative(difference: float, size: float) -> float:
    return difference / size if size > 0 else difference


def claims_determinism() -> bool:
    """Whether the user's code asked for deterministic algorithms."""
    return torch.are_deterministic_algorithms_enabled() or bool(torch.backends.cudnn.deterministic)
