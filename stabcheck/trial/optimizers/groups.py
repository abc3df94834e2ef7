"""What the parameter groups of an optimizer hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from stabcheck.recording import Recording
from stabcheck.trial.session import Session


@dataclass(frozen=True)
class IdleGroup:
    """A group that no rate moves, though another's does."""

    group: int
    count: int
    name: str
    others: float


def idle_groups(session: Session, peaks: Sequence[float], recording: Recording) -> Iterator[IdleGroup]:
    """Groups of trainable parameters of the model that are planned to stay at rate zero and did so in the trial."""
    optimizer = session.setup.optimizer
    groups = optimizer.param_groups if optimizer is not None else []
    if len(peaks) != len(groups) or not any(peaks):
        return
    names = {id(p): name for name, p in session.model.named_parameters() if p.requires_grad}
    for index, (group, peak) in enumerate(zip(groups, peaks, strict=True)):
        held = [names[id(p)] for p in group["params"] if id(p) in names]
        # A scheduler that keeps a group at zero is lr-schedule's finding.
        scheduled = float(group.get("initial_lr", 0.0)) > 0
        seen = [step.lr[index] for step in recording.steps if len(step.lr) == len(groups)]
        if peak == 0 and held and not scheduled and not any(seen):
            yield IdleGroup(index, len(held), held[0], max(peaks))


def decayed(session: Session) -> dict[str, Any]:
    """How many normalisation weights, biases and embeddings are decayed: common, and told without alarm."""
    optimizer = session.setup.optimizer
    held = {
        id(p) for group in (optimizer.param_groups if optimizer is not None else ()) if group.get("weight_decay")
        for p in group["params"]
    }  # fmt: skip
    counts = {"decayed_biases": 0, "decayed_norms": 0, "decayed_embeddings": 0}
    for module in session.model.modules():
        kind = type(module).__name__
        for name, p in module.named_parameters(recurse=False):
            if id(p) in held:
                counts["decayed_norms"] += "Norm" in kind
                counts["decayed_biases"] += "bias" in name and "Norm" not in kind
                counts["decayed_embeddings"] += isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    return counts
