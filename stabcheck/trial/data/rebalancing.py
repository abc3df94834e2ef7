"""Whether a set-up does anything about classes that are rare: weights in the loss, or a sampler."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler

from stabcheck.trial import batches
from stabcheck.trial.data.scan import Scan, class_labels
from stabcheck.trial.loss_contract.observe import one_pass
from stabcheck.trial.loss_contract.watch import BINARY_LOSSES, CLASS_LOSSES, LossCall
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session

LOOKED_AT = 4
"""Batches with rare classes in which the loss is watched."""


def is_plain(session: Session, scan: Scan, seed: int) -> bool:
    """Whether every sample of a batch with rare classes counts the same in a loss of PyTorch's, and samples are drawn one by
    one: then nothing does. What weights a sampler has does not matter, for classes are counted as they are drawn."""
    setup, loader = session.setup, session.setup.train_loader
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return False
    if not isinstance(loader.sampler, (RandomSampler, SequentialSampler, WeightedRandomSampler)):
        return False
    if setup.loss_fn is None and setup.compute_loss is None:
        return False
    labels = ((batch, class_labels(setup, batch)) for batch in scan.batches)
    mixed = [batch for batch, found in labels if found is not None and len(set(found.tolist())) > 1][:LOOKED_AT]
    with undisturbed(session.model), kept_rng(seed):
        seen = [one_pass(session, session.placed(batches.clone(batch))) for batch in mixed]
    calls = [[(c, same) for c, same in one.supervised if c.name in {*CLASS_LOSSES, *BINARY_LOSSES}] for one in seen]
    return bool(calls) and all(found and all(_counts_all_alike(c, same) for c, same in found) for found in calls)


def _counts_all_alike(call: LossCall, same: float | None) -> bool:
    weighed = any(isinstance(call.options.get(key), torch.Tensor) for key in ("weight", "pos_weight"))
    return same is not None and not weighed and not call.skips
