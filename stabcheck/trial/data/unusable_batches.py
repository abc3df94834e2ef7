"""Batches that the model or its loss cannot take: NaN in them, ids beyond a table, a last batch of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.data.scan import Scan
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.split.fields import leaves
from stabcheck.trial.yardsticks import undisturbed
from stabcheck.userland import UserCodeError

Fresh = Callable[[], Session]


@dataclass(frozen=True)
class Broken:
    """Samples with NaN or infinite values that make the loss so."""

    number: int
    path: str
    rows: int
    loss: float
    mended: float
    """The loss of the same batch with these values set to zero."""


def loss_of(session: Session, key: str, batch: Any, seed: int) -> float:
    """The loss of one batch in the mode that the loader is for, everything put back.

    Raises:
        UserCodeError: the set-up raised, or gives its loss only inside its step.
    """
    with undisturbed(session.model), kept_rng(seed):
        session.model.train(key == "train_loader")
        return session.validation_loss(batches.clone(batch))


def broken(fresh: Fresh, session: Session, scan: Scan, seed: int) -> Broken | None:
    """The first batch whose NaN or infinite values reach the loss; None where the set-up deals with them."""
    for number, path, rows, batch in scan.broken:
        mended = batches.map_tensors(batch, _finite)
        try:
            clean, spoilt = (loss_of(session, scan.key, b, seed) for b in (mended, batch))
        except (UserCodeError, Skip):
            if scan.key != "train_loader" or session.setup.train_step is None:
                continue
            clean, spoilt = _steps(fresh, mended, batch, seed)
        if math.isfinite(clean) and not math.isfinite(spoilt):
            return Broken(number, path, rows, spoilt, clean)
    return None


def _steps(fresh: Fresh, mended: Any, batch: Any, seed: int) -> tuple[float, float]:
    try:
        values = []
        for given in (mended, batch):
            session = fresh()
            with kept_rng(seed):
                values.append(session.step(batches.clone(given)))
    except (UserCodeError, Skip):
        return math.nan, math.nan
    clean, spoilt = (math.nan if value is None else value for value in values)
    return (clean, spoilt) if None not in values else (math.nan, math.nan)


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        return tensor
    return torch.nan_to_num(tensor, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class Refused:
    """A batch that the set-up cannot take, while it takes the first one."""

    number: int
    what: str
    """The leaf and its value, or the size of the batch."""
    error: UserCodeError


def refused_values(fresh: Fresh, session: Session, scan: Scan, seed: int) -> Refused | None:
    """The batch with the largest or smallest whole number of a leaf, if the set-up raises on it. A pair of samples is tried
    of each, where the set-up takes pairs."""
    good = batches.cut(scan.batches[0], PAIR)
    if not _takes(session, scan.key, good, seed):
        good = scan.batches[0]
        if not _takes(session, scan.key, good, seed):
            return None
    tried: set[int] = {0}
    for (path, _), extreme in scan.extremes.items():
        if extreme.at in tried:
            continue
        whole = extreme.batch if good is scan.batches[0] else _around(extreme.batch, path, extreme.value)
        error = _refusal(fresh, session, scan.key, whole, seed)
        if error is not None and whole is not extreme.batch:  # two samples may lack what a batch of many has
            error = _refusal(fresh, session, scan.key, extreme.batch, seed)
        if error is not None:
            here = [(p, n, e.value) for (p, n), e in scan.extremes.items() if e.at == extreme.at]
            said = " and ".join(f"the {n} value of {p or 'the batch'} ({v})" for p, n, v in here)
            return Refused(extreme.at, said, error)
        if good is scan.batches[0]:
            tried.add(extreme.at)
    return None


PAIR = 2
"""Samples of a batch that are tried: the fewest that a BatchNorm takes."""


def _takes(session: Session, key: str, batch: Any, seed: int) -> bool:
    try:
        loss_of(session, key, batch, seed)
    except (UserCodeError, Skip):
        return False
    return True


def _around(batch: Any, path: str, value: int) -> Any:
    """The sample that holds this value, and one more."""
    leaf, count = leaves(batch)[path], batches.size(batch)
    if not isinstance(leaf, np.ndarray) or leaf.shape[:1] != (count,):
        return batch
    row = int((leaf == value).reshape(count, -1).any(axis=1).argmax())
    turned = batches.map_tensors(batch, lambda t: t.roll(-row, 0) if t.dim() and len(t) == count else t)
    return batches.cut(turned, PAIR) if all(t.dim() and len(t) == count for t in batches.tensors(batch)) else batch


def refused_last(fresh: Fresh, session: Session, scan: Scan, seed: int) -> Refused | None:
    """The last batch of the pass, if it is smaller than the others and the set-up raises on it."""
    size, batch, number = _last(session, scan)
    if batch is None or size >= scan.sizes[0]:
        return None
    if not _takes(session, scan.key, scan.batches[0], seed):
        return None
    error = _refusal(fresh, session, scan.key, batch, seed)
    return Refused(number, f"{size} sample{'s' * (size != 1)}", error) if error is not None else None


def _last(session: Session, scan: Scan) -> tuple[int, Any, int]:
    """Size, content and number of the last batch; made of the first one where the pass was not read to its end."""
    if scan.whole:
        return scan.sizes[-1], scan.last, len(scan.sizes) - 1
    loader: Any = getattr(session.setup, scan.key)
    size: Any = getattr(loader, "batch_size", None)
    try:
        count, rest = len(loader), len(loader.sampler) % size
    except (TypeError, AttributeError, ZeroDivisionError, NotImplementedError):
        return 0, None, 0
    if not rest or getattr(loader, "drop_last", True):
        return 0, None, 0
    batch = batches.cut(scan.batches[0], rest)
    return rest, batch if batches.size(batch) == rest else None, count - 1


def _refusal(fresh: Fresh, session: Session, key: str, batch: Any, seed: int) -> UserCodeError | None:
    """What is raised for `batch`, where another one like it was taken; with a step of the user's, what that raises."""
    try:
        loss_of(session, key, batch, seed)
    except UserCodeError as error:
        first = error
    except Skip:
        return None
    else:
        return None
    if key != "train_loader" or session.setup.train_step is None:
        return first
    stepping = fresh()  # the user's own step may leave such a batch out
    with kept_rng(seed):
        try:
            stepping.step(batches.clone(batch))
        except UserCodeError as error:
            return error
    return None
