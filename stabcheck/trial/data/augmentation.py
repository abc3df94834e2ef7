"""Random augmentation that repeats itself: datasets that seed a generator at each read, or carry one into every worker."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from stabcheck.trial.rng import kept_rng, rng_state, seed_all
from stabcheck.trial.session import Session
from stabcheck.trial.split.draws import same_leaf
from stabcheck.trial.split.fields import leaves
from stabcheck.trial.split.samples import behind
from stabcheck.userland import UserCodeError

READS = 4


@dataclass(frozen=True)
class Repeated:
    """How draws repeat: "reseeded" at each read, or "cloned" into every worker."""

    how: Literal["reseeded", "cloned"]
    generator: str
    """Whose: "torch", "numpy" or "random" for the global ones, or where the dataset keeps its own."""
    dataset: Any


def repeated(session: Session) -> Repeated | None:
    """Look at how the training dataset draws; None if it draws well, not at all, or cannot be read by index.

    Raises:
        UserCodeError: the dataset raised.
    """
    loader = session.setup.train_loader
    if not isinstance(loader, DataLoader):
        return None
    source = behind(loader, "train_loader")
    if source.style != "items" or len(source.indices) < READS:
        return None
    with kept_rng():
        name = _reseeded(source)
        if name is not None:
            return Repeated("reseeded", name, source.dataset)
        renewed = loader.num_workers > 1 or (loader.num_workers == 1 and not loader.persistent_workers)
        if renewed and loader.worker_init_fn is None:
            name = _cloned(source)
            if name is not None:
                return Repeated("cloned", name, source.dataset)
    return None


def _states(seed: int, source: Any, index: Any) -> dict[str, bytes]:
    """Fingerprints of the global generators after reading one sample."""
    seed_all(seed)
    source.read(index)
    state = rng_state()
    return {
        "torch": state.torch_state.numpy().tobytes(),
        "numpy": repr([np.asarray(part).tobytes() for part in state.numpy_state[1:3]]).encode(),
        "random": repr(state.python_state).encode(),
    }


def _reseeded(source: Any) -> str | None:
    """The global generator that is in one and the same state after any read, wherever it started."""
    last = len(source.indices) - 1
    reads = [
        _states(seed, source, source.indices[at])
        for seed, at in ((11, 0), (12, last // 2), (13, last), (14, last // 3))
    ]
    for name in reads[0]:
        if len({read[name] for read in reads}) == 1:
            return name
    return None


def _cloned(source: Any) -> str | None:
    """Where the dataset keeps a generator of its own that decides what is drawn: each worker starts from a copy of it."""
    own = dict(_own_generators(source.dataset, "dataset", 0))
    if not own:
        return None
    index = source.indices[0]
    kept = {path: _state(generator) for path, generator in own.items()}
    try:
        first, again = (leaves(source.read(index)) for _ in range(2))
        for path, generator in own.items():
            _set_state(generator, kept[path])
        seed_all(2)  # as in another worker
        other = leaves(source.read(index))
    finally:
        for path, generator in own.items():
            _set_state(generator, kept[path])
    same = all(path in other and same_leaf(first[path], other[path]) for path in first)
    moving = any(path in again and not same_leaf(first[path], again[path]) for path in first)
    return next(iter(own)) if same and moving else None


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)


def _own_generators(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _GENERATORS):
        yield path, value
        return
    if depth > 4 or isinstance(value, (torch.Tensor, np.ndarray, str, bytes, type)):
        return
    held: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        held = [(f"{path}[{key!r}]", item) for key, item in list(value.items())[:50]]
    elif isinstance(value, (list, tuple)):
        held = [(f"{path}[{i}]", item) for i, item in enumerate(value[:20])]
    elif hasattr(value, "__dict__"):
        held = [(f"{path}.{name}", item) for name, item in vars(value).items()]
    for name, item in held:
        yield from _own_generators(item, name, depth + 1)


def quietly(session: Session) -> Repeated | None:
    """`repeated`, or None where the dataset cannot be read alone."""
    try:
        return repeated(session)
    except UserCodeError:
        return None
