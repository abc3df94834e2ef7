"""Padded sequences: what the padding says to the rest, what the rest says to each other, and whether a mask is heeded."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from stabcheck.trial.batches import tensors
from stabcheck.trial.dependence.difference import Outputs, equal, is_changed, scale
from stabcheck.trial.dependence.effect import disturbed_embeddings
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.modes import kept_modes
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.split.samples import behind
from stabcheck.userland import UserCodeError, userland

BATCHES = 8
"""Batches of the loader that are looked at for how far they are padded."""
MARGIN = 3
"""Positions of padding that are left to each sample, and taken from it at least."""
ALONE = 8
"""Samples of which it is looked how far they are padded alone."""
SHORTEST = 3
"""Positions from which a tensor is taken for a sequence."""


@dataclass(frozen=True)
class Padded:
    """An input whose rows end (or begin) in padding of different length."""

    name: str
    real: torch.Tensor
    """(samples, positions): what is no padding."""
    masks: tuple[str, ...]
    """Inputs that say the same: masks, and lengths."""


@dataclass(frozen=True)
class Flow:
    """How strongly an output at the last real position, or of a whole sample, reacts; shares of the output's size."""

    padded: Padded
    output: str
    from_real: float
    """To the real positions between the first and the last, which may be where the output is read off."""
    from_padding: float

    @property
    def is_inverted(self) -> bool:
        """Padding is seen, and what is no padding is not."""
        return self.from_real == 0.0 and self.from_padding > 0.0


def padded_inputs(subject: Subject) -> list[Padded]:
    """Sequences of tokens with padding at the end or the beginning, and of feature vectors for which a mask says so."""
    inputs = {name: t for name, t in subject.inputs().items() if subject.axis(t) == 0}
    found: list[Padded] = []
    indices = {m.padding_idx for m in subject.session.model.modules() if isinstance(m, nn.Embedding)}
    for name, tensor in inputs.items():
        if tensor.dim() < 2 or tensor.shape[1] < SHORTEST or tensor.dtype == torch.bool:
            continue
        if tensor.is_floating_point():
            empty = (tensor == 0).flatten(2).all(2) if tensor.dim() > 2 else torch.zeros_like(tensor, dtype=torch.bool)
            real = _outside_run(empty)
        elif tensor.dim() == 2:
            real = _of_tokens(tensor)
        else:
            continue
        if real is None:
            continue
        masks = tuple(other for other, t in inputs.items() if other != name and _says(t, real))
        by_token = not tensor.is_floating_point() and int(tensor[~real][0]) in {0, *indices}
        if masks or by_token:
            found.append(Padded(name, real, masks))
    return found


def _of_tokens(ids: torch.Tensor) -> torch.Tensor | None:
    for column in (-1, 0):
        for token in ids[:, column].unique().tolist():
            real = _outside_run(ids == token)
            if real is not None:
                return real
    return None


def _outside_run(empty: torch.Tensor) -> torch.Tensor | None:
    """Positions outside a run of `empty` at the end, or at the beginning, of each row; None if some are empty inside, or
    no two rows differ."""
    for flipped in (False, True):
        rows = empty.flip(1) if flipped else empty
        real = rows.long().flip(1).cumprod(1).flip(1) == 0
        lengths = real.sum(1)
        if not bool((rows & real).any()) and len(lengths.unique()) > 1 and bool((lengths >= 2).any()):
            return real.flip(1) if flipped else real
    return None


def _says(tensor: torch.Tensor, real: torch.Tensor) -> bool:
    if tensor.shape == real.shape:
        return tensor.unique().numel() == 2 and any(torch.equal(tensor.bool(), m) for m in (real, ~real))
    return tensor.shape == real.shape[:1] and torch.equal(tensor, real.sum(1).to(tensor))


def flows(subject: Subject, padded: Padded) -> list[Flow]:
    """Disturb the content of the padding, and of what is no padding, with every mask held; one entry for each output."""
    real = padded.real
    rows = ((~real).any(1) & (real.sum(1) >= SHORTEST)).nonzero().flatten()
    places = torch.arange(1, real.shape[1] + 1, device=real.device)
    first, last = (real * places.flip(0)).argmax(1), (real * places).argmax(1)
    ends = torch.zeros_like(real).scatter(1, torch.stack([first, last], 1), True)
    if not len(rows):
        return []
    seen: list[Flow] = []
    try:
        with_padding = _disturbed(subject, padded, ~real)
        with_real = _disturbed(subject, padded, real & ~ends)
    except UserCodeError:
        return []
    if with_padding is None or with_real is None:
        return []
    for name, base in subject.base.items():
        if not base.dim() or base.shape[0] != len(real):
            continue
        if base.shape[:2] == real.shape:
            of_real, of_padding = ((with_[name][rows, last[rows]]) for with_ in (with_real, with_padding))
            base = base[rows, last[rows]]
        else:
            of_real, of_padding, base = with_real[name][rows], with_padding[name][rows], base[rows]
        seen.append(Flow(padded, name, _reaction(base, of_real), _reaction(base, of_padding)))
    return seen


def _reaction(base: torch.Tensor, other: torch.Tensor) -> float:
    if base.shape != other.shape or not bool(is_changed(base, other).any()):
        return 0.0
    return scale(other.float() - base.float()) / max(scale(base), 1e-30)


def _disturbed(subject: Subject, padded: Padded, where: torch.Tensor) -> Outputs | None:
    tensor = subject.given(padded.name)
    if not tensor.is_floating_point():
        with disturbed_embeddings(subject, tensor, where) as met:
            outputs = subject.run()
        return outputs if met else None
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(subject.seed)).to(tensor)
    spread = where.view(*where.shape, *[1] * (tensor.dim() - 2)) * noise * scale(tensor)
    return subject.run(lambda name, t: t + spread if name == padded.name else t)


def sway_of_company(subject: Subject) -> tuple[str, float] | None:
    """A padded input without a mask that is heeded, and how far the outputs of its shorter samples move when these make up a
    batch of their own and are padded less, as a share of how much the outputs differ from each other. None if the loader does
    not pad each batch as far as its longest sample, or the model cannot be given such a batch.

    Some padding is left to each: whether there is any at all, a maximum over all positions may well notice.
    """
    for padded in padded_inputs(subject):
        lengths = padded.real.sum(1)
        length = min(int(lengths.median()) + MARGIN, padded.real.shape[1] - MARGIN)
        rows = (lengths <= length - MARGIN).nonzero().flatten()
        at_end = bool(padded.real[:, 0].all())
        if not at_end or len(rows) < 2 or not _follows_longest(subject, padded):
            continue
        if padded.masks and is_heeded(subject, padded):
            continue
        wide = padded.real.shape

        def change(name: str, tensor: torch.Tensor, wide: torch.Size = wide, length: int = length) -> torch.Tensor:
            axis = subject.axis(tensor)
            chosen = tensor if axis is None else tensor.index_select(axis, rows)  # noqa: B023 - called within the loop
            return chosen[:, :length] if axis == 0 and tensor.shape[:2] == wide else chosen

        try:
            alone = subject.run(change)
        except UserCodeError:
            continue
        sways = [
            _sway(base.index_select(0, rows), alone[name], padded.real[rows, :length])
            for name, base in subject.base.items()
            if name in alone and base.dim() and len(base) == len(padded.real)
        ]
        if sways:
            return padded.name, max(sways)
    return None


def _sway(base: torch.Tensor, alone: torch.Tensor, real: torch.Tensor) -> float:
    if base.dim() > 1 and base.shape[1] > real.shape[1] == alone.shape[1]:
        base, alone = base[:, : real.shape[1]][real], alone[real]
    if base.shape != alone.shape or not bool(is_changed(base, alone).any()):
        return 0.0
    return scale(alone.float() - base.float()) / max(scale(base.float() - base.float().mean(0)), 1e-30)


def _follows_longest(subject: Subject, padded: Padded) -> bool:
    """Whether the batches are padded to different lengths, each as far as its longest sample."""
    token = subject.given(padded.name)[~padded.real][0]
    place = next((i for i, t in enumerate(tensors(subject.batch)) if t.shape[:2] == padded.real.shape), None)
    if place is None:
        return False
    widths = set()
    with kept_rng(subject.seed):
        for batch in itertools.islice(subject.session.epoch("train_loader"), BATCHES):
            found = next(itertools.islice(tensors(batch), place, None))
            if found.dim() < 2 or bool((found[:, -1] == token).flatten(1 if found.dim() > 2 else 0).all()):
                return False
            widths.add(found.shape[1])
    return len(widths) > 1 or _is_narrower_alone(subject.session.setup.train_loader, place, widths)


def _is_narrower_alone(loader: Any, place: int, widths: set[int]) -> bool:
    """Whether the loader's collate function pads a sample less that is alone: among many one is nearly always the longest."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return False
    try:
        source = behind(loader, "train_loader")
        if source.style != "items":
            return False
        for index in list(source.indices[:ALONE]):
            with userland("collate_fn"):
                found = next(itertools.islice(tensors(loader.collate_fn([source.read(index)])), place, None))
            if found.dim() > 1 and found.shape[1] < min(widths):
                return True
    except (UserCodeError, StopIteration):
        pass
    return False


def is_heeded(subject: Subject, padded: Padded) -> bool:
    """Whether anything changes when every mask and length says that nothing is padding."""
    real = padded.real

    def everything(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in padded.masks:
            return tensor
        if tensor.dim() == 1:
            return torch.full_like(tensor, real.shape[1])
        return torch.full_like(tensor, bool(tensor[real][0]))

    model = subject.session.model
    training = [False, True]
    with contextlib.suppress(UserCodeError):
        return any(_differs(subject, everything) for _ in _modes(model, training))
    return True


def _modes(model: nn.Module, modes: list[bool]) -> Iterator[None]:
    with kept_modes(model):
        for mode in modes:
            model.train(mode)
            yield


def _differs(subject: Subject, change: Changed) -> bool:
    base, other = subject.run(), subject.run(change)
    return not equal(base, other)
