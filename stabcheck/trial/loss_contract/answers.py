"""How the loss answers to predictions and targets that are known to be good or bad."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from stabcheck.trial import batches
from stabcheck.trial.hooks import attached
from stabcheck.trial.losses import IGNORE_INDEX, scalar, split
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import domain_of
from stabcheck.userland import UserCodeError, userland

STEPS_AWAY = (1.0, 10.0, 100.0)
"""Distances between a prediction and its target, in logits or in standard deviations."""
SPREADS = (0.1, 1.0, 10.0)
"""Sizes of random predictions at which other targets have to change the loss: a margin may swallow small or large ones."""
FEWEST_SAMPLES = 4


@dataclass(frozen=True)
class Flip:
    """The loss at perfect predictions and at the same predictions turned round."""

    right: float
    wrong: float
    unbounded: bool
    """Whether it falls without end as predictions move away from the targets."""


class Prober:
    """The loss of one batch as a function of outputs and targets that are put in the place of the real ones."""

    def __init__(self, session: Session, batch: Any, seed: int) -> None:
        self.session, self.batch, self.seed = session, batch, seed
        self.outputs: torch.Tensor | None = None
        self.targets: Any = None
        self._find()

    def _find(self) -> None:
        setup = self.session.setup
        try:
            inputs, targets = split(self.session.placed(self.batch))
        except UserCodeError:
            return
        if setup.loss_fn is not None:
            with undisturbed(self.session.model), kept_rng(self.seed), torch.no_grad():
                outputs = self.session.outputs(self.batch)
        elif setup.compute_loss is not None:
            seen: list[Any] = []
            note = self.session.model.register_forward_hook(lambda module, args, output: seen.append(output))
            with attached(note), undisturbed(self.session.model), kept_rng(self.seed):
                self.session.loss(self.batch)
            # Rewards and the like would be further tensors; a second call could be of anything.
            if len(seen) != 1 or len(list(batches.tensors([inputs, targets]))) != 2:
                return
            outputs = seen[0]
        else:
            return
        if isinstance(outputs, torch.Tensor) and outputs.is_floating_point() and isinstance(targets, torch.Tensor):
            self.outputs, self.targets = outputs.detach(), targets

    def loss(self, outputs: torch.Tensor, targets: Any = None, seed: int | None = None) -> float:
        """The loss with these in the place of the real ones; NaN if it refuses them. Other targets only with a loss_fn."""
        targets = self.targets if targets is None else targets
        setup = self.session.setup
        assert self.outputs is not None
        shaped = outputs.to(self.outputs.dtype).expand_as(self.outputs).clone()
        try:
            with kept_rng(self.seed if seed is None else seed), self.session.autocast():
                if setup.loss_fn is not None:
                    with userland("loss_fn"), torch.no_grad():
                        return float(scalar(setup.loss_fn(shaped, targets), "loss_fn"))
                instead = self.session.model.register_forward_hook(lambda module, args, output: shaped + 0.0 * output)
                with attached(instead):
                    return float(self.session.loss(self.batch).detach())
        except UserCodeError:
            return math.nan

    # --- sign

    def flip(self) -> Flip | None:
        """How the loss prefers what is wrong to what is right; None if it does not, or nothing is known to be right."""
        if self.outputs is None or len(self.outputs) < FEWEST_SAMPLES:
            return None
        with undisturbed(self.session.model):
            self.session.model.eval()
            # Actions and rewards that are drawn give the targets another meaning.
            if self.loss(self.outputs) != self.loss(self.outputs, seed=self.seed + 1):
                return None
            return next((flip for made in self._predictions() if (flip := self._flip(*made))), None)

    def _flip(self, towards: Callable[[float], torch.Tensor], others: list[torch.Tensor]) -> Flip | None:
        assert self.outputs is not None
        right = self.loss(towards(STEPS_AWAY[1]))
        away = [self.loss(towards(-step)) for step in STEPS_AWAY]
        rest = [self.loss(z) for z in (self.outputs, *others)]
        if not math.isfinite(right) or any(math.isnan(v) for v in (*away, *rest)):
            return None
        margin = 1e-3 * max(abs(right), 1e-6)
        if not all(v < right - margin for v in (*away, *rest)):
            return None
        falling = away[0] > away[1] > away[2] and away[2] < 5 * min(away[0], -abs(right))
        return Flip(right, away[1], falling)

    def _predictions(self) -> Iterator[tuple[Callable[[float], torch.Tensor], list[torch.Tensor]]]:
        """(the predictions that lie at a distance towards the targets, or away from them if it is negative; others), for
        each thing that the targets may mean."""
        assert self.outputs is not None
        domain, target = domain_of(self.outputs), self.targets
        if target.is_floating_point() or target.shape == self.outputs.shape:
            if target.numel() != self.outputs.numel() or len(target.unique()) < 2 or not batches.all_finite(target):
                return
            values = target.reshape(self.outputs.shape).float()
            if bool(((values == 0) | (values == 1)).all()):
                yield _turned(domain, 2 * values - 1)
            spread = float(values.std())
            # A value has two sides: what is towards it from anywhere is the value itself.
            sides = [values + side * step * spread for step in STEPS_AWAY for side in (-1, 1)]
            others = [-values, values.roll(1, 0), *sides]
            yield (lambda step: values if step > 0 else values - step * spread), others
            return
        direction = self._one_hot(target)
        if direction is not None:
            yield _turned(domain, direction)

    def _one_hot(self, target: torch.Tensor) -> torch.Tensor | None:
        assert self.outputs is not None
        size = self.outputs.shape
        for axis in {1, self.outputs.dim() - 1} if self.outputs.dim() > 1 else set():
            left = size[:axis] + size[axis + 1 :]
            if target.shape != left or size[axis] < 2:
                continue
            inside = (target >= 0) & (target < size[axis])
            if not bool((inside | (target == IGNORE_INDEX)).all()) or len(target[inside].unique()) < 2:
                continue
            hot = F.one_hot(target.clamp(0, size[axis] - 1).long(), size[axis]).movedim(-1, axis).float()
            return (2 * hot - 1) * inside.unsqueeze(axis)
        return None

    # --- targets

    def is_blind(self) -> bool:
        """Whether the loss is the same whatever the targets are, though the outputs are made to fit them."""
        if self.outputs is None or self.session.setup.loss_fn is None or not self._fit():
            return False
        others = [self.targets.flip(0), self.targets.roll(1, 0), self._elsewhere()]
        domain, noise = domain_of(self.outputs), torch.Generator().manual_seed(self.seed)
        for spread in SPREADS:
            # The outputs of an untrained model may be all alike, and so may be their losses.
            outputs = domain(spread * torch.randn(self.outputs.shape, generator=noise).to(self.outputs.device))
            first = self.loss(outputs)
            if not math.isfinite(first) or any(self.loss(outputs, other) != first for other in others):
                return False
        return True

    def _fit(self) -> bool:
        """Whether the outputs have the shape of scores for just these classes, or of these values."""
        assert self.outputs is not None
        target = self.targets
        if len(target) < FEWEST_SAMPLES or bool((target == target[:1]).all()):
            return False
        if target.is_floating_point():
            return bool(target.numel() == self.outputs.numel())
        return self._one_hot(target) is not None and int(target.max()) + 1 in self.outputs.shape

    def _elsewhere(self) -> torch.Tensor:
        target: torch.Tensor = self.targets
        return target + target.std() + 1 if target.is_floating_point() else target.max() + target.min() - target


def _turned(
    domain: Callable[[torch.Tensor], torch.Tensor], direction: torch.Tensor
) -> tuple[Callable[[float], torch.Tensor], list[torch.Tensor]]:
    """Predictions along a direction of scores, for `_predictions`."""
    return (lambda step: domain(step * direction)), [domain(direction.roll(1, 0)), domain(0 * direction)]


# --- batches


def is_summed(session: Session, batch: Any, seed: int) -> bool | None:
    """Whether the loss of a batch with every sample twice is twice that of the batch; None if it cannot be told."""
    count = batches.size(batch)

    def double(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() and len(tensor) == count else tensor

    with undisturbed(session.model), torch.no_grad(), kept_rng():
        session.model.eval()
        try:
            once = float(_seeded(session, batch, seed))
            twice = float(_seeded(session, batches.map_tensors(batch, double), seed))
        except UserCodeError:
            return None
    if not once or not math.isfinite(once) or not math.isfinite(twice):
        return None
    return math.isclose(twice / once, 2.0, rel_tol=SAME)


SAME = 1e-3
"""Relative difference between two sums that rounding makes."""


def _seeded(session: Session, batch: Any, seed: int) -> torch.Tensor:
    with kept_rng(seed):
        return session.loss(batch)


@dataclass(frozen=True)
class Stride:
    """The loss of a batch before and after one step of plain gradient descent at the planned rate, and at that rate divided by
    the number of terms in the sum."""

    before: float
    after: float
    divided: float


def stride(session: Session, batch: Any, seed: int, rate: float, count: int) -> Stride | None:
    """What such steps do to the batch that they come from; None if that cannot be told."""
    parameters = [p for p in session.model.parameters() if p.requires_grad]
    with undisturbed(session.model), kept_rng():
        session.model.train()
        try:
            loss = _seeded(session, batch, seed)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            after = []
            for step in (rate / count, rate - rate / count):
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        if gradient is not None:
                            parameter.sub_(step * gradient)
                    after.append(float(_seeded(session, batch, seed)))
        except (UserCodeError, RuntimeError):
            return None
    return Stride(float(loss.detach()), after[1], after[0])
