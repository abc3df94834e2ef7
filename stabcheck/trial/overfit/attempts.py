"""Fitting one batch with an optimizer of ours: with everything random held still, and with it moving."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.overfit.dropout import dropout_off
from stabcheck.trial.overfit.fits import MOVING_WINDOW, Fit, fit_with_adam, is_stochastic, settled
from stabcheck.trial.overfit.levels import SMALLEST, OneBatch
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import measure, zero_level
from stabcheck.userland import UserCodeError

FIRST_RATE, LADDER = 3e-3, (3e-4, 1e-3, 1e-2)
FIRST_STEPS, RUNG_STEPS, LAST_STEPS, MOVING_STEPS = 60, 10, 140, 200
NOISE_DRAWS = 8
"""Draws of everything random over which the best constant guess is sought: one draw may be lucky."""
NO_REACTION = 1e-3
"""Change of the first loss when the inputs are zeroed or swapped, as a share of what there is to learn, that is none."""


NO_PENALTY = 0.2
"""Fall of the loss of an all-zero prediction, as a share of what there is to learn, below which no other part of the loss can have
made a fit look good that leaves half or less."""


@dataclass(frozen=True)
class Beside:
    """A loss that fell while the predictions stayed as good as a constant one."""

    first: float
    final: float
    constant: float
    """The loss of the best constant prediction at the last weights."""
    steps: int


class Attempts:
    """All attempts with an optimizer of ours, each from the same start."""

    def __init__(self, bench: Bench, session: Session, chosen: OneBatch) -> None:
        self.bench, self.session, self.chosen, self.seed = bench, session, chosen, bench.seed
        self.curves: dict[str, list[float]] = {}
        self.still_loss = math.nan
        self.moving_constant = chosen.height
        self.rates_tried: list[float] = []
        self._rate = FIRST_RATE
        self._constant = math.nan
        self._snapshot = session.snapshot()

    def fit_still(self, fitted: float) -> float:
        """Share left after fitting with Adam, dropout off and randomness held; stops below `fitted`."""
        self.bench.tell(0.1, "fitting one batch with stabcheck's Adam")
        fit = self._fit_still(self.chosen.level(fitted))
        self.still_loss = fit.lowest
        self._rate = fit.rate
        self.curves["stabcheck's Adam"] = list(fit.losses)
        return self.chosen.left(fit.lowest)

    def _fit_still(self, until: float) -> Fit:
        with dropout_off(self.session.model):
            best = self._attempt(FIRST_RATE, FIRST_STEPS, until)
            self.rates_tried = [FIRST_RATE]
            if best.lowest <= until:
                return best
            rungs = [self._attempt(rate, RUNG_STEPS, until) for rate in LADDER]
            rungs.append(Fit(FIRST_RATE, best.losses[:RUNG_STEPS]))
            self.rates_tried = sorted(fit.rate for fit in rungs)
            # From the start again: the steps taken so far are repeated, so the curve is one whole attempt.
            order = sorted(rungs, key=lambda fit: fit.final)
            again = self._attempt(order[0].rate, RUNG_STEPS + LAST_STEPS, until)
            return min((best, again), key=lambda fit: fit.lowest)

    def _attempt(self, rate: float, steps: int, until: float, *, moving: bool = False) -> Fit:
        self.session.restore(self._snapshot)
        self.session.model.train()
        return fit_with_adam(
            self.session,
            self.chosen.batch,
            rate=rate,
            steps=steps,
            seed=self.seed,
            until=until,
            moving=moving,
            deadline=self.bench.deadline,
        )

    def inputs_are_unused(self, left: float) -> bool:
        """Whether the first loss does not react to the inputs, and the fit goes equally well with all of them zero."""
        self.session.restore(self._snapshot)
        self.session.model.train()
        with dropout_off(self.session.model):
            with kept_rng(self.seed):
                real = float(self.session.loss(self.chosen.batch).detach())
            for change in (torch.zeros_like, lambda t: t.flip(0) if t.dim() else t):
                try:
                    with kept_rng(self.seed), _changed_inputs(self.session, change):
                        changed = float(self.session.loss(self.chosen.batch).detach())
                except UserCodeError:  # a model may refuse such inputs, which shows that it reads them
                    return False
                if not abs(changed - real) <= NO_REACTION * self.chosen.gap:
                    return False
        with _changed_inputs(self.session, torch.zeros_like):
            try:
                zeroed = self._fit_still(-math.inf)
            except UserCodeError:  # a model may refuse zeros, which shows that it reads its inputs
                return False
        return abs(self.chosen.left(zeroed.lowest) - left) <= 0.02 * max(1.0, left)

    def falls_without_fitting(self, nothing: float) -> Beside | None:
        """Right after `fit_still` has come low enough: whether the loss fell beside the predictions, which are not better than
        a constant one at the weights of then. So it is if another part of the loss outweighs them, and a longer fit too leaves
        more than `nothing` of their share. None if not, or if no other part has moved."""
        if self.session.setup.loss_fn is not None or self.chosen.levels.constant is None or self.chosen.is_flat:
            return None
        with dropout_off(self.session.model):
            before = self.chosen.levels.zero
            with undisturbed(self.session.model):
                now = zero_level(self.session, self.chosen.batch, self.seed)
            if before is None or now is None or abs(now - before) <= NO_PENALTY * self.chosen.gap:
                return None
            if not self._share() > nothing:
                return None
            fit = self._attempt(self._rate, RUNG_STEPS + LAST_STEPS, -math.inf)
            left = self._share()
            self.curves["stabcheck's Adam"] = list(fit.losses)
        return Beside(fit.losses[0], fit.final, self._constant, len(fit.losses)) if left > nothing else None

    def _share(self) -> float:
        """Share of what there is to predict that is left at the present weights; 0 if it is not known."""
        levels = measure(self.session, [self.chosen.batch], self.seed)
        if levels.constant is None or levels.oracle is None:
            return 0.0
        self._constant = levels.constant
        with kept_rng(self.seed), undisturbed(self.session.model):
            loss = float(self.session.loss(self.chosen.batch).detach())
        # What there is may have shrunk with a weight that is learnt.
        gap = min(self.chosen.gap, levels.constant - levels.oracle)
        return 1 - (levels.constant - loss) / gap if gap > SMALLEST else 0.0

    @property
    def is_mostly_frozen(self) -> bool:
        """Whether less than half of the model's numbers are trained."""
        sizes = [(p.numel(), p.requires_grad) for p in self.session.model.parameters()]
        return sum(n for n, trained in sizes if trained) < 0.5 * sum(n for n, _ in sizes)

    def is_stochastic(self) -> bool:
        """Whether the loss depends on the random seed at fixed weights."""
        self.session.restore(self._snapshot)
        self.session.model.train()
        return is_stochastic(self.session, self.chosen.batch, self.seed)

    def fit_moving(self, enough: float) -> tuple[float, float, int]:
        """(share left, final loss, steps) with everything random drawn anew at each step; stops well below `enough`."""
        self.bench.tell(0.4, "fitting one batch with randomness moving")
        self.session.restore(self._snapshot)
        draws = measure(self.session, [self.chosen.batch] * NOISE_DRAWS, self.seed)
        # Where a constant is as good as it gets, as for one side of a GAN, it tells nothing on any draw.
        constant = self.chosen.height if draws.constant is None or self.chosen.is_flat else draws.constant
        floor = self.chosen.floor
        gap = max(constant - floor, SMALLEST)
        fit = self._attempt(self._rate, MOVING_STEPS, floor + (enough - 0.1) * gap, moving=True)
        final = settled(fit.losses, 2 * MOVING_WINDOW if len(fit.losses) == MOVING_STEPS else MOVING_WINDOW)
        if "with randomness moving" not in self.curves:  # a second time, without dropout, is not what is shown
            self.curves["with randomness moving"] = list(fit.losses)
            self.moving_constant = constant
        return (final - floor) / gap, final, len(fit.losses)

    def noise_is_dropout(self, enough: float) -> bool:
        """Whether a signal survives once dropout is off and everything else random still moves."""
        with dropout_off(self.session.model):
            if not self.is_stochastic():
                return True
            left, _, _ = self.fit_moving(enough)
        return left <= enough


@contextlib.contextmanager
def _changed_inputs(session: Session, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Every tensor that the model is called with goes through `change` first; masks and labels are left alone."""

    def changed(value: Any) -> Any:
        return batches.map_tensors(value, lambda t: t if t.dtype == torch.bool else change(t))

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        own_loss = not (session.setup.loss_fn or session.setup.compute_loss)
        given = tuple(changed(a) if i == 0 or not own_loss else a for i, a in enumerate(args))
        named = {k: v if any(w in k for w in ("mask", "label", "target")) else changed(v) for k, v in kwargs.items()}
        return given, named

    handle = session.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
