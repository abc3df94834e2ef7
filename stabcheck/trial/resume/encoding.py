"""Whether two processes write the same data in different codes: other numbers for the same words, columns in another order."""

from __future__ import annotations

from collections import Counter

import torch

from stabcheck.trial.bench import Bench
from stabcheck.trial.elsewhere import built_elsewhere, depends_on_hashes, first_data
from stabcheck.trial.resume.cuts import Cut
from stabcheck.userland import UserCodeError

OFTEN = 4
"""Times that each number must occur on average for one code to be told from other data: other data would have to agree with
the same translation each time."""


def other_code(bench: Bench, cut: Cut) -> str | None:
    """How a process with other hashes, after it has loaded the checkpoint, writes the same training data; None if it writes it
    the same way, gives other data, or was not tried."""
    if not depends_on_hashes(bench):
        return None
    try:
        there = built_elsewhere(bench, cut.path)
    except UserCodeError:  # the same load went well in a process with these hashes
        return None
    if there is None:
        return None
    session = bench.session()
    here = first_data(session, bench.seed)
    if [len(batch) for batch in here] != [len(batch) for batch in there.data]:
        return None
    columns = [
        (torch.cat([_rows(t) for t in ours]), torch.cat([_rows(t) for t in theirs]))
        for ours, theirs in zip(zip(*here, strict=True), zip(*there.data, strict=True), strict=True)
        if all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True)) and len({t.shape[1:] for t in ours}) == 1
    ]
    return next((how for ours, theirs in columns if (how := _translated(ours, theirs))), None)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor.reshape(-1)


def _translated(ours: torch.Tensor, theirs: torch.Tensor) -> str | None:
    if ours.equal(theirs) or ours.dtype != theirs.dtype:
        return None
    if not ours.is_floating_point():
        moved = renumbered(ours, theirs)
        return (
            f"{moved} of the {len(ours.unique())} whole numbers in its batches stand for something else"
            if moved
            else None
        )
    if reordered(ours, theirs):
        return f"the {ours.shape[-1]} columns of its inputs come in another order"
    return None


def renumbered(ours: torch.Tensor, theirs: torch.Tensor) -> int:
    """How many numbers another one stands for, if each number of `ours` is the same other one of `theirs` everywhere, and the
    reverse; else 0."""
    pairs = set(zip(ours.reshape(-1).tolist(), theirs.reshape(-1).tolist(), strict=True))
    one_to_one = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    if not one_to_one or ours.numel() < OFTEN * len(pairs):
        return 0
    return sum(a != b for a, b in pairs)


def reordered(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether `theirs` has the same columns in another order."""
    if ours.dim() < 2 or len(ours) < OFTEN:
        return False
    one, two = ([tuple(column) for column in t.T.tolist()] for t in (ours, theirs))
    return one != two and Counter(one) == Counter(two)
