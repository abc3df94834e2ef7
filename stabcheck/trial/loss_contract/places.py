"""Right answers that hang on a sample's place in the batch.

In losses that set samples against each other (InfoNCE and its kin) each row holds a sample's scores against all of them, and the
target says which is the right one. Samples in another order have to give the same rows, in that order, with the same score
called right; where the row is the same and another score is, the target means a place and no sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.trial import batches
from stabcheck.trial.loss_contract.fault import Fault, shape
from stabcheck.trial.loss_contract.observe import Pass
from stabcheck.trial.loss_contract.watch import LossCall, LossWatch
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.overfit.mixed import rows
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

FEWEST = 6
"""Samples in a batch: of fewer, many keep their places."""
CLOSE = 1e-4
"""Differences between scores, relative to their spread, that the order of summing makes."""
MASKED = -1e4
"""Below this a score is one that is masked out, as a sample's with itself."""
OTHER = 0.5
"""Share of the samples for which another score is called right."""


@dataclass(frozen=True)
class _Scores:
    values: torch.Tensor
    right: torch.Tensor


def by_place(session: Session, seen: Pass, seed: int) -> Fault | None:
    """The fault in one pass, by computing its loss with the samples in their order and in another one."""
    count = batches.size(seen.batch)
    numbers = [i for i, call in enumerate(seen.calls) if _is_square(call, count)]
    if not numbers or count < FEWEST or not _is_drawn(session, count):
        return None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    with undisturbed(session.model), torch.no_grad():
        session.model.eval()
        before = _calls(session, seen.batch, seed)
        after = _calls(session, rows(seen.batch, order.tolist()), seed)
    if not before or len(before) != len(after):
        return None
    for one, other in zip(before, after, strict=True):
        found = _judged(one, other, order)
        if found is not None:
            call = seen.calls[numbers[0]]
            facts = {"loss": call.name, "scores": shape(call.input), "count": found, "samples": count}
            return Fault("right-answer-by-place", call.place, facts)
    return None


def _is_square(call: LossCall, count: int) -> bool:
    """Whether it has a row and a column for each sample, or for each of as many views of all samples, one after the other."""
    size = call.input.shape
    return (
        call.has_indices and call.input.dim() == 2 and size[0] == size[1] and size[0] >= count and not size[0] % count
    )


def _is_drawn(session: Session, count: int) -> bool:
    """Whether the loader draws its samples at random, one by one, so that places mean nothing."""
    loader = session.setup.train_loader
    sampler = getattr(loader, "sampler", None)
    drawn = isinstance(sampler, (torch.utils.data.RandomSampler, torch.utils.data.SubsetRandomSampler))
    return drawn and getattr(loader, "batch_size", None) == count


def _calls(session: Session, batch: Any, seed: int) -> list[_Scores]:
    watch = LossWatch(session.model)
    try:
        with kept_rng(seed), watch.watching():
            session.loss(batches.clone(batch))
    except UserCodeError:
        return []
    count = batches.size(batch)
    found = []
    for call in watch.calls:
        if _is_square(call, count) and call.target is not None and int(call.target.min()) >= 0:
            values = call.input.detach().double().clamp(min=MASKED)
            found.append(_Scores(values, values.gather(1, call.target[:, None])[:, 0]))
    return found


def _judged(before: _Scores, after: _Scores, order: torch.Tensor) -> int | None:
    """For how many samples another score is right after the change; None if for few, or if the rows are not the same."""
    count = len(order)
    views = len(before.values) // count
    order = torch.cat([order + view * count for view in range(views)]).to(before.values.device)
    spread = float(before.values[before.values > MASKED].std())
    columns = (before.values[order][:, order] - after.values).abs().max()
    if not spread > 0 or not float(columns) <= CLOSE * spread:
        return None
    apart = int(((before.right[order] - after.right).abs() > CLOSE * spread).sum())
    return apart if apart >= OTHER * len(order) else None
