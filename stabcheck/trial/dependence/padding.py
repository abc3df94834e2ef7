"""Padded sequences: what the padding says to the rest, what the rest says to each other, and whether a mask is heeded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from stabcheck.trial.dependence.difference import Outputs, equal, is_changed, scale
from stabcheck.trial.dependence.effect import disturbed_embeddings
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.modes import kept_modes
from stabcheck.userland import UserCodeError

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
