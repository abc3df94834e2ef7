"""Whether the model that is validated has anything to do with the one that is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from stabcheck.trial.session import Session
from stabcheck.trial.validation.watched import Run, run
from stabcheck.userland import UserCodeError

CATCH_UP_STEPS = 12
"""Steps in which a separate copy of the model may follow it; averaged copies are often updated once in ten steps."""


def follows(session: Session, seen: Run, step: Callable[[], Any]) -> bool | None:
    """Whether the model that the validation `seen` ran is the set-up's own or changes when that is trained by `step`; None
    if it cannot be told, as for a copy made anew each time."""
    own = {id(p) for p in session.model.parameters()}
    roots = {id(v.root): v.root for v in seen.visits}
    roots = {key: root for key, root in roots.items() if next(root.parameters(), None) is not None}
    if not roots or not own:
        return None
    if any(id(p) in own for root in roots.values() for p in root.parameters()):
        return True
    before = {key: [p.detach().clone() for p in root.parameters()] for key, root in roots.items()}
    if any(_equal(session.model.parameters(), weights) for weights in before.values()):
        return None  # a copy made for the occasion
    try:
        for _ in range(CATCH_UP_STEPS):
            step()
        again = run(session)
    except UserCodeError:
        return None  # the first steps went well: this one is not for here to judge
    if not {id(v.root) for v in again.visits} & roots.keys():
        return None
    return any(not _equal(root.parameters(), before[key]) for key, root in roots.items())


def _equal(parameters: Iterable[torch.Tensor], weights: Sequence[torch.Tensor]) -> bool:
    present = list(parameters)
    return len(present) == len(weights) and all(
        torch.equal(a.detach(), b) for a, b in zip(present, weights, strict=True)
    )
