"""Optimizers that move the same parameters within one call, each by the gradient of a loss of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stabcheck import stats
from stabcheck.trial.batches import tensors
from stabcheck.trial.hooks import attached
from stabcheck.trial.loop.ownership import reaches
from stabcheck.trial.modes import held_by
from stabcheck.trial.norms import numbers
from stabcheck.trial.session import Session

CALLS = 12
"""Calls that are watched once two optimizers move the same parameters."""
LAST = 8
"""Of these, the last: in the first of a GAN with a squared loss both players want the judge to say more."""
GIVEN_BACK = 0.5
"""Median share of what one optimizer's step gains, to first order, that the other's takes back. A generator's optimizer that holds
the discriminator too takes back 0.6 to 1.2 on handwritten digits (four losses), and 0.2 where the discriminator wins at once,
which is left alone; the same loss twice -1, an information loss through the discriminator 0. Tasks that share a trunk, and
adversarial autoencoders, come to 0.6: these are told apart by what comes before what."""


@dataclass(frozen=True)
class Rivalry:
    """One optimizer's step takes back what another's has gained, on parameters that both move."""

    owner: str
    """Class of the one that moves only what is moved by both."""
    other: str
    """Class of the one that moves more."""
    shared: tuple[str, ...]
    """Names of the parameters that both move."""
    own: tuple[str, ...]
    """Those that only the other moves."""
    given_back: float
    """Median over the calls."""
    calls: int


@dataclass
class _Step:
    """What one step did to the parameters that another optimizer holds too."""

    optimizer: int
    reached: set[int]
    """Every parameter with a gradient."""
    gradients: dict[int, torch.Tensor]
    before: dict[int, torch.Tensor]
    moves: dict[int, torch.Tensor] = field(default_factory=dict)


class Rivals:
    """The steps of each call on parameters that two optimizers hold."""

    def __init__(self) -> None:
        self._call = -1
        self._steps: list[_Step] = []
        self._shares: dict[tuple[int, int], list[float]] = {}
        self._reached: dict[int, set[int]] = {}

    @property
    def any(self) -> bool:
        """Whether two optimizers were seen to move the same parameters."""
        return bool(self._shares)

    def before(self, call: int, optimizers: Sequence[Any], index: int) -> None:
        """An optimizer is going to step."""
        if call != self._call:
            self._compare()
            self._call, self._steps = call, []
        mine = held_by(optimizers[index])
        common = {key for i, o in enumerate(optimizers) if i != index for key in held_by(o) & mine}
        if common:
            there = {id(p): p for g in optimizers[index].param_groups for p in g["params"] if p.grad is not None}
            usable = {key: p for key, p in there.items() if key in common and not p.grad.is_sparse}
            gradients = {key: p.grad.detach().clone() for key, p in usable.items()}
            before = {key: p.detach().clone() for key, p in usable.items()}
            self._steps.append(_Step(index, set(there), gradients, before))

    def after(self, optimizers: Sequence[Any], index: int) -> None:
        """It has stepped."""
        if self._steps and self._steps[-1].optimizer == index and not self._steps[-1].moves:
            step = self._steps[-1]
            there = {id(p): p.detach() for g in optimizers[index].param_groups for p in g["params"]}
            step.moves = {key: there[key] - old for key, old in step.before.items() if key in there}

    def _compare(self) -> None:
        """How far the one's move lowers its loss, and the other's raises it again: both along the gradient of the one."""
        order = [step.optimizer for step in self._steps]
        once = [step for step in self._steps if order.count(step.optimizer) == 1]
        for owner, other in itertools.permutations(once, 2):
            keys = owner.moves.keys() & other.moves.keys()
            gain = _along(owner.gradients, owner.moves, keys)
            if gain < 0:
                share = -_along(owner.gradients, other.moves, keys) / gain
                self._shares.setdefault((owner.optimizer, other.optimizer), []).append(share)
            for step in (owner, other):
                self._reached.setdefault(step.optimizer, set()).update(step.reached)

    def found(self, optimizers: Sequence[Any], names: Mapping[int, str]) -> Rivalry | None:
        """The pair of which one moves more than the other, and takes back most of what that gains in each of the last calls."""
        self._compare()
        self._steps = []
        for (owner, other), shares in self._shares.items():
            mine, its, last = self._reached[owner], self._reached[other], shares[-LAST:]
            if mine < its and len(last) == LAST and min(last) > 0 and stats.median(last) > GIVEN_BACK:
                kinds = [type(optimizers[i]).__name__ for i in (owner, other)]
                named = [tuple(name for key, name in names.items() if key in part) for part in (mine, its - mine)]
                return Rivalry(kinds[0], kinds[1], named[0], named[1], stats.median(last), LAST)
        return None


def passes_through(session: Session, batch: Any, rivalry: Rivalry) -> bool:
    """Whether what only the one optimizer moves comes before what both do, so that its gradient only passes through these, as a
    generator's through the discriminator; a step is taken. Tasks that share a trunk have theirs behind it."""
    parameters = dict(session.model.named_parameters())
    wanted = {id(parameters[name]) for name in rivalry.own if name in parameters}
    owners = {name.rpartition(".")[0] for name in rivalry.shared}
    met: list[bool] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        met.append(reaches(list(tensors([*args, *kwargs.values()])), wanted))

    modules = [m for name, m in session.model.named_modules() if name in owners]
    with attached(m.register_forward_pre_hook(note, with_kwargs=True) for m in modules):
        session.step(batch)
    return any(met)


def _along(gradients: dict[int, torch.Tensor], moves: dict[int, torch.Tensor], keys: Set[int]) -> float:
    products = [(gradients[key].double() * moves[key].double()).sum() for key in keys]
    return sum(value or 0.0 for value in numbers(products))
