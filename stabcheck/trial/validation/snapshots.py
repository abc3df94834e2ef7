"""Weights that were set aside, as the best so far, but not copied: they go on changing with the model."""

from __future__ import annotations

import re

import torch
from torch import nn

from stabcheck.trial.resume.walk import look
from stabcheck.trial.session import Session

_SET_ASIDE = re.compile(r"best|snapshot|backup|previous|prev(?![a-z])|old(?![a-z])|original", re.IGNORECASE)


def set_aside(session: Session) -> set[str]:
    """The names, among what the set-up's functions refer to, that say that weights were set aside there, and under which are the
    very weights of the model: its state_dict, uncopied, or the model itself."""
    found, own = look(session), session.model.state_dict()
    names = {name for name in found.model_names if _SET_ASIDE.search(name)}
    places = {tensor.data_ptr() for tensor in own.values() if tensor.numel()}
    inside: dict[str, int] = {}
    for path, slot in found.slots.items():
        around, _, label = path.removesuffix("]").rpartition("[")
        if not around or label.strip("'\"") not in own or not _SET_ASIDE.search(around):
            continue
        held = slot.get()
        same = isinstance(held, torch.Tensor) and not isinstance(held, nn.Parameter) and held.data_ptr() in places
        inside[around] = inside.get(around, 0) + same
    return names | {name for name, count in inside.items() if count >= len(places)}
