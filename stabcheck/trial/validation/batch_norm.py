"""Whether BatchNorm layers compute in eval mode what they compute in training.

All losses are taken with everything but the BatchNorm layers in eval mode, on the same training batches
and with the same random numbers, so that dropout and its like play no part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from stabcheck.stats import mean, median
from stabcheck.trial import batches
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import kept_modes, unseen_by_autograd
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.validation.forward_watch import uncompiled

PROBES = 6
"""Batches on which losses are compared; the comparisons are paired, so a few suffice."""

ERRATIC = 0.5
"""From this momentum on the running statistics are no average: the last batch alone makes up half of them."""

LAST_BATCHES = 9
"""Batches tried as the last one before validating; the median counts."""

NEGLIGIBLE = 0.01
"""A share of the initial statistics that is as good as none."""


@dataclass(frozen=True)
class BatchNormReport:
    """Mean losses on the probe batches, where nothing else is said."""

    momentum: dict[str, float | None]
    """By layer."""
    uses: dict[str, int]
    """Forwards of each layer in one forward of the model."""
    values: int
    """Fewest values that any layer averages for a channel in one batch."""
    at_start: float
    """With batch statistics, after the first training step."""
    trained: float
    """With batch statistics, after the steps."""
    averaged: float
    """In eval mode, with statistics averaged over many training batches at the present weights."""
    gaps: tuple[float, ...]
    """averaged - trained, per batch."""
    erratic: float | None
    """In eval mode with the statistics that a momentum of ERRATIC or more leaves after an epoch's last batch (the median of
    several); None if no layer has such a momentum."""
    left: dict[str, float]
    """By layer: share of the initial mean 0 and variance 1 at the end of the planned run; 0 where not known."""
    at_end: float | None
    """In eval mode with statistics mixed in these shares; None if they are negligible."""


class BatchNormTest:
    """Made before the training steps, on a Session whose loss can be computed; `report` after them.

    Raises:
        UserCodeError: the model or the loss raised in eval mode.
    """

    def __init__(
        self, session: Session, layers: Mapping[str, nn.Module], fresh: set[str], probes: Sequence[Any], seed: int
    ) -> None:
        self._session, self._fresh, self._seed = session, fresh, seed
        self._probes = [batches.clone(b) for b in probes[:PROBES]]
        self._layers: dict[str, Any] = dict(layers)
        self._uses = dict.fromkeys(self._layers, 0)
        self._values: list[int] = []
        with self._kept():
            self._count_uses()
            self._at_start = self._losses(batch_statistics=True)

    def report(self, many: Sequence[Any], forwards: int | None, last: int | None) -> BatchNormReport:
        """Compare, with statistics averaged over `many` training batches. `forwards` of the model are planned for the real
        run; `last` is the size of an epoch's last batch, None if it is like the others.

        Raises:
            UserCodeError: the model or the loss raised.
        """
        own = {name: bn.momentum for name, bn in self._layers.items()}
        left = {name: _left(m, forwards) if name in self._fresh else 0.0 for name, m in own.items()}
        at_end = erratic = None
        with self._kept():
            trained = self._losses(batch_statistics=True)
            self._average_over(many)
            averaged = self._losses()
            if any(is_erratic(bn) for bn in self._layers.values()):
                erratic = self._after_each(batches.cut(b, last) if last else b for b in many[:LAST_BATCHES])
            if max(left.values()) > NEGLIGIBLE:
                self._average_over(many)
                at_end = self._with_initial(left)
        gaps = tuple(a - b for a, b in zip(averaged, trained, strict=True))
        return BatchNormReport(
            momentum=own,
            uses=self._uses,
            values=min(self._values, default=0),
            at_start=mean(self._at_start),
            trained=mean(trained),
            averaged=mean(averaged),
            gaps=gaps,
            erratic=erratic,
            left=left,
            at_end=at_end,
        )

    def _losses(self, *, batch_statistics: bool = False, probes: int = PROBES) -> tuple[float, ...]:
        self._use_batch_statistics(batch_statistics)
        losses = []
        for i, batch in enumerate(self._probes[:probes]):
            with kept_rng(self._seed + i), torch.no_grad():
                losses.append(float(self._session.loss(batch)))
        return tuple(losses)

    def _forward(self, many: Sequence[Any]) -> None:
        self._use_batch_statistics(True)
        for batch in many:
            with kept_rng(self._seed), torch.no_grad():
                self._session.loss(batch)

    def _average_over(self, many: Sequence[Any]) -> None:
        own = [bn.momentum for bn in self._layers.values()]
        for bn in self._layers.values():
            bn.reset_running_stats()
            bn.momentum = None  # torch's way to say: a plain average of all batches
        self._forward(many)
        for bn, momentum in zip(self._layers.values(), own, strict=True):
            bn.momentum = momentum

    def _after_each(self, last: Iterable[Any]) -> float:
        losses = []
        for batch in last:
            self._forward([batch])
            losses.append(mean(self._losses()))
        return median(losses)

    def _with_initial(self, left: Mapping[str, float]) -> float:
        for name, share in left.items():
            self._layers[name].running_mean.mul_(1 - share)
            self._layers[name].running_var.mul_(1 - share).add_(share)
        return mean(self._losses())

    def _count_uses(self) -> None:
        def note(name: str) -> Any:
            def hook(bn: Any, args: tuple[torch.Tensor, ...]) -> None:
                self._uses[name] += 1
                self._values.append(args[0].numel() // max(1, bn.num_features))

            return hook

        with attached(bn.register_forward_pre_hook(note(name)) for name, bn in self._layers.items()):
            self._losses(batch_statistics=True, probes=1)

    def _use_batch_statistics(self, on: bool) -> None:
        for bn in self._layers.values():
            bn.training = on

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Eval mode for all modules; modes, statistics, momenta and random numbers come back as they were."""
        kept = [(bn, bn.momentum, {k: b.clone() for k, b in bn.named_buffers()}) for bn in self._layers.values()]
        with unseen_by_autograd(b for bn in self._layers.values() for b in bn.buffers()):
            try:
                with kept_modes(self._session.model), kept_rng(), uncompiled():
                    for module in self._session.model.modules():
                        module.training = False
                    yield
            finally:
                for bn, momentum, statistics in kept:
                    bn.momentum = momentum
                    for key, value in statistics.items():
                        getattr(bn, key).copy_(value)


def is_erratic(layer: Any) -> bool:
    """Whether the momentum of a BatchNorm is ERRATIC or more."""
    return layer.momentum is not None and bool(layer.momentum >= ERRATIC)


def _left(momentum: float | None, forwards: int | None) -> float:
    """Share of the initial statistics after so many forwards: (1 - momentum)^forwards; 0 where that is not known."""
    if momentum is None:
        return 0.0
    return 1.0 if momentum == 0 else float((1 - momentum) ** forwards) if forwards else 0.0


def last_of_epoch(loader: Any) -> int | None:
    """Size of an epoch's last batch, after which the user validates; None if it is like the others or not known."""
    if not isinstance(loader, DataLoader) or not loader.batch_size or loader.drop_last:
        return None
    try:
        return len(loader.sampler) % loader.batch_size or None  # type: ignore[arg-type]
    except TypeError:  # a stream of unknown length
        return None
