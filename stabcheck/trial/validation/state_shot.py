"""What a set-up's model and optimizer hold at one moment, and what differs at another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from stabcheck.trial.session import Session

SAMPLE = 2**17
"""Elements kept of a tensor: what validating changes (a step, a swap, statistics) is all of a tensor, and a large model must not
be held several times."""


@dataclass(frozen=True)
class Changes:
    """What is different in the later of two shots. Names are parameter, buffer and module paths."""

    parameters: dict[str, float]
    """Relative size of the change, ‖after - before‖ / ‖before‖."""
    buffers: dict[str, float]
    gradients: tuple[str, ...]
    """Parameters whose gradient is not zero and was not the same before."""
    optimizer: tuple[str, ...]
    """Entries of the optimizer's state, such as "exp_avg"."""
    modes: tuple[str, ...]
    frozen: tuple[str, ...]
    """Parameters that required gradients and no longer do."""


@dataclass(frozen=True)
class StateShot:
    """Copies on the CPU of parameters, buffers, gradients, optimizer state and modes; of long tensors an even sample."""

    parameters: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    optimizer: dict[tuple[int, str], torch.Tensor]
    modes: dict[str, bool]
    trainable: frozenset[str]

    @classmethod
    def of(cls, session: Session) -> StateShot:
        """The state of this session now."""
        model, optimizer = session.model, session.setup.optimizer
        held: list[Any] = [] if optimizer is None else [p for g in optimizer.param_groups for p in g["params"]]
        return cls(
            parameters={n: _copy(p) for n, p in model.named_parameters() if not is_lazy(p)},
            buffers={n: _copy(b) for n, b in model.named_buffers() if not is_lazy(b)},
            gradients={n: _copy(p.grad) for n, p in model.named_parameters() if p.grad is not None},
            optimizer={
                (i, key): _copy(item)
                for i, p in enumerate(held)
                for key, item in optimizer.state.get(p, {}).items()
                if isinstance(item, torch.Tensor)
            },
            modes={n: m.training for n, m in model.named_modules()},
            trainable=frozenset(n for n, p in model.named_parameters() if p.requires_grad),
        )

    def changes(self, later: StateShot, tolerance: float) -> Changes:
        """What differs in `later`; parameters and buffers by more than `tolerance` of their norm, the rest at all."""
        return Changes(
            parameters=_moved(self.parameters, later.parameters, tolerance),
            buffers=_moved(self.buffers, later.buffers, tolerance),
            gradients=tuple(n for n, g in later.gradients.items() if g.any() and not _same(self.gradients.get(n), g)),
            optimizer=tuple(sorted({k[1] for k, t in later.optimizer.items() if not _same(self.optimizer.get(k), t)})),
            modes=tuple(n for n, mode in later.modes.items() if self.modes.get(n, mode) is not mode),
            frozen=tuple(n for n in later.parameters if n in self.trainable - later.trainable),
        )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.numel() > SAMPLE:
        tensor = tensor.reshape(-1)[:: tensor.numel() // SAMPLE]
    return tensor.to("cpu", copy=True)


def _same(before: torch.Tensor | None, after: torch.Tensor) -> bool:
    return before is not None and before.shape == after.shape and _equal(before, after)


def _equal(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether all elements are equal; NaN is equal to NaN, as a diverged model has not changed by staying NaN."""
    return torch.equal(before, after) or bool(((before == after) | (before.isnan() & after.isnan())).all())


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], tolerance: float) -> dict[str, float]:
    moved = {}
    for name, new in after.items():
        old = before.get(name)
        if old is None or old.shape != new.shape:
            continue  # made on the first use (lazy modules, caches): nothing to compare with
        if _equal(old, new):
            continue
        a, b = (t.abs().double() if t.is_complex() else t.double() for t in (old, new))
        size = float(a.norm())
        change = float((b - a).norm()) / size if size > 0 else float("inf")
        if not change <= tolerance:  # becoming NaN counts as a change
            moved[name] = change
    return moved
