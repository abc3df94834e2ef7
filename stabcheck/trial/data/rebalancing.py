"""Whether a set-up does anything about classes that are rare: weights in the loss, or a sampler."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from stabcheck.setup import TrainingSetup


def is_plain(setup: TrainingSetup) -> bool:
    """Whether the loss is a plain one of PyTorch's and samples are drawn as they come: then nothing does."""
    loader, loss = setup.train_loader, setup.loss_fn
    drawn = isinstance(loader, DataLoader) and isinstance(loader.sampler, (RandomSampler, SequentialSampler))
    if not drawn or loss is None:
        return False
    if isinstance(loss, (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.BCELoss, nn.NLLLoss)):
        weights = (getattr(loss, "weight", None), getattr(loss, "pos_weight", None))
        return not any(isinstance(w, torch.Tensor) for w in weights)
    return loss in {F.cross_entropy, F.binary_cross_entropy_with_logits, F.binary_cross_entropy, F.nll_loss}
