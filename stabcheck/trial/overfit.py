"""The attempts behind one-batch-overfit: which batch, at which levels its loss is judged, and each fit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.check import Source
from stabcheck.recording import Yardsticks
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.losses import split
from stabcheck.trial.one_batch import (
    MOVING_WINDOW,
    Fit,
    dropout_off,
    fit_with_adam,
    fit_with_own_step,
    is_stochastic,
    moved,
    settled,
    weights,
)
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import ONLY_IN_STEP, measure, one_for_all
from stabcheck.userland import UserCodeError

SAMPLES, TOKEN_SAMPLES = 16, 4
"""As many samples a small model can memorise in a hundred steps; sequences of tokens hold many targets each."""
FIRST_RATE, LADDER = 3e-3, (3e-4, 1e-3, 1e-2)
FIRST_STEPS, RUNG_STEPS, LAST_STEPS, MOVING_STEPS, OWN_STEPS = 60, 10, 140, 200, 100
FEWEST_STEPS = 10
BATCHES_TRIED = 5
NOISE_DRAWS = 8
"""Draws of everything random over which the best constant guess is sought: one draw may be lucky."""
NO_REACTION = 1e-3
"""Change of the first loss when the inputs are zeroed or swapped, as a share of what there is to learn, that is none."""
UNBOUNDED = -1e3
FLAT = 1e-3
"""A gap between constant and best prediction below this share of the distance to the floor is none."""


@dataclass(frozen=True)
class OwnFit:
    """One attempt with the user's own step, on the scale of the loss: 1 is the best constant guess, 0 the floor."""

    fit: Fit
    constant: float
    floor: float
    moved: bool

    @property
    def rate(self) -> float:
        """Largest learning rate of the parameter groups."""
        return self.fit.rate

    @property
    def losses(self) -> tuple[float, ...]:
        """Loss before each step."""
        return self.fit.losses

    @property
    def final(self) -> float:
        """Mean of the last losses."""
        return self.fit.final

    @property
    def gap(self) -> float:
        """From the floor to the best constant guess."""
        return max(self.constant - self.floor, 1e-12)

    def fits(self, limit: float) -> bool:
        """Whether less than `limit` of the gap is left."""
        return (self.final - self.floor) / self.gap <= limit

    @property
    def gain(self) -> float:
        """Share of the gap that was covered."""
        return (self.losses[0] - self.final) / self.gap

    @property
    def went_up(self) -> bool:
        """Whether the loss ended non-finite, or above its start by a tenth of the gap."""
        return not math.isfinite(self.final) or self.gain < -0.1

    @property
    def is_falling(self) -> bool:
        """Whether the second half ended below its start and no loss rose above the first by a tenth of the gap."""
        half = self.losses[len(self.losses) // 2 :]
        steady = max(self.losses) <= self.losses[0] + 0.1 * self.gap if all(map(math.isfinite, self.losses)) else False
        return steady and half[-1] < half[0]

    def steps_to(self, limit: float) -> float:
        """Steps from the start until less than `limit` of the gap is left, at the pace of the second half; infinite if
        the loss does not fall."""
        half = self.losses[len(self.losses) // 2 :]
        pace = (half[0] - half[-1]) / max(len(half) - 1, 1)
        missing = max(self.final - self.floor - limit * self.gap, 0.0)
        return len(self.losses) + missing / pace if pace > 0 else math.inf


class Trials:
    """All attempts on one batch of one bench, each from the same start."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.seed = bench, bench.seed
        self.session = bench.session()
        setup = self.session.setup
        self.planned = self.session.planned_steps
        self.no_loss, self.no_step, self.cut = "", "", ""
        self.loss_source: Source | None = bench.source(setup.compute_loss or setup.loss_fn or setup.model)
        self.step_source: Source | None = bench.source(setup.train_step)
        self.curves: dict[str, list[float]] = {}
        self.levels = Yardsticks(None, None, None)
        self.start = self.moving_constant = math.nan
        self.still_loss: float | None = None
        self.rates_tried: list[float] = []
        self.shapes = ""
        self.drops_out = False
        self._own: Session | None = None
        self._rate = FIRST_RATE
        self._whole: Any = None
        self._batch: Any = None

    # --- the batch and its levels

    def prepare(self) -> bool:
        """Choose a batch on which predictions can differ, and measure its levels; False if the loss cannot be computed."""
        session, setup = self.session, self.session.setup
        session.model.train()
        for count, batch in enumerate(session.epoch("train_loader")):
            candidate = batches.clone(batches.cut(batch, TOKEN_SAMPLES if _is_tokens(batch) else SAMPLES))
            if self._batch is None:
                self._whole, self._batch = batches.clone(batch), candidate
            with kept_rng(self.seed):
                try:
                    loss = session.loss(candidate)
                except UserCodeError:
                    if setup.train_step is None or setup.loss_fn or setup.compute_loss:
                        raise
                    self.no_loss = ONLY_IN_STEP
                    return False
            if count == 0:
                self.start = float(loss.detach())
            if why := _cut(session, loss):
                self.cut = why
                return True
            levels = measure(session, [candidate], self.seed)
            if count == 0 or not self._flat(levels):
                self._whole, self._batch, self.levels = batches.clone(batch), candidate, levels
                self.start = float(loss.detach())
            if not self._flat(levels) or count + 1 >= BATCHES_TRIED:
                break
        if self._batch is None:
            session.first_batch()  # raises with the reason
        self._snapshot = session.snapshot()
        return True

    @property
    def samples(self) -> int:
        """Samples in the batch that is fitted."""
        return batches.size(self._batch)

    def _flat(self, levels: Yardsticks) -> bool:
        if levels.constant is None or levels.oracle is None:
            return False
        height = max(levels.zero or levels.constant, levels.constant) - levels.oracle
        return levels.constant - levels.oracle <= FLAT * max(height, abs(levels.oracle), 1e-12)

    def is_blind(self) -> bool:
        """Whether the loss is the same for the best and for the best constant prediction though targets differ."""
        if self.session.setup.loss_fn is None:
            return False
        targets = split(self._batch)[1]
        with torch.no_grad(), kept_rng(self.seed):
            outputs = self.session.outputs(self._batch)
        if isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor):
            self.shapes = f" (outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)})"
            if outputs.dim() > 2 and _crossed(outputs.shape, targets.shape):
                self.levels = measure(self.session, [self._batch], self.seed, shapes=one_for_all)
        differs = any(bool((t != t[:1]).any()) for t in batches.tensors(targets) if t.dim() and len(t) > 1)
        return differs and self._flat(self.levels)

    @property
    def floor(self) -> float:
        """The loss that counts as perfect."""
        constant = self.levels.constant if self.levels.constant is not None else self.start
        if self.levels.oracle is not None and self.levels.oracle > UNBOUNDED:
            return self.levels.oracle
        return min(0.0, constant - abs(constant)) if math.isfinite(constant) else 0.0

    def left(self, loss: float) -> float:
        """Share of the way from the floor to the best constant prediction (to the first loss, where that is flat)."""
        constant = self.start if self.levels.constant is None or self._flat(self.levels) else self.levels.constant
        return (loss - self.floor) / max(constant - self.floor, 1e-12)

    def _level(self, share: float) -> float:
        return self.floor + share * (loss - self.floor) if (loss := self._height()) > self.floor else -math.inf

    def _height(self) -> float:
        return self.start if self.levels.constant is None or self._flat(self.levels) else self.levels.constant

    # --- can it

    def fit_still(self, fitted: float, not_fitted: float) -> float:
        """Share left after fitting with Adam, dropout off and randomness held; stops below `fitted`."""
        self.bench.tell(0.1, "fitting one batch with stabcheck's Adam")
        fit = self._fit_still(self._level(fitted))
        self.still_loss = fit.lowest
        self._rate = fit.rate
        self.curves["stabcheck's Adam"] = list(fit.losses)
        return self.left(fit.lowest)

    def _fit_still(self, until: float) -> Fit:
        with dropout_off(self.session.model) as self.drops_out:
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
            self.session, self._batch, rate=rate, steps=steps, seed=self.seed, until=until, moving=moving
        )

    def conflicting(self) -> int:
        """Samples whose input equals another's in the batch while the target differs."""
        if self.session.setup.loss_fn is None:
            return 0
        inputs, targets = split(self._batch)
        keys, labels = _rows(inputs, self.samples), _rows(targets, self.samples)
        return (
            sum(
                any(keys[i] == keys[j] and labels[i] != labels[j] for j in range(len(keys)) if j != i)
                for i in range(len(keys))
            )
            if keys and labels and len(keys) == len(labels)
            else 0
        )

    def inputs_are_unused(self, left: float) -> bool:
        """Whether the first loss does not react to the inputs, and the fit goes equally well with all of them zero."""
        self.session.restore(self._snapshot)
        self.session.model.train()
        with dropout_off(self.session.model), torch.no_grad():
            with kept_rng(self.seed):
                real = float(self.session.loss(self._batch))
            for change in (torch.zeros_like, lambda t: t.flip(0) if t.dim() else t):
                try:
                    with kept_rng(self.seed), _changed_inputs(self.session, change):
                        changed = float(self.session.loss(self._batch))
                except UserCodeError:  # a model may refuse such inputs, which shows that it reads them
                    return False
                if not abs(changed - real) <= NO_REACTION * max(self._height() - self.floor, 1e-12):
                    return False
        with _changed_inputs(self.session, torch.zeros_like):
            try:
                zeroed = self._fit_still(-math.inf)
            except UserCodeError:  # a model may refuse zeros, which shows that it reads its inputs
                return False
        return abs(self.left(zeroed.lowest) - left) <= 0.02 * max(1.0, left)

    # --- does a signal survive the noise

    def is_stochastic(self) -> bool:
        """Whether the loss depends on the random seed at fixed weights."""
        self.session.restore(self._snapshot)
        self.session.model.train()
        return is_stochastic(self.session, self._batch, self.seed)

    def fit_moving(self, enough: float) -> tuple[float, float, int]:
        """(share left, final loss, steps) with everything random drawn anew at each step; stops well below `enough`."""
        self.bench.tell(0.4, "fitting one batch with randomness moving")
        self.session.restore(self._snapshot)
        draws = measure(self.session, [self._batch] * NOISE_DRAWS, self.seed)
        if draws.constant is not None:
            self.moving_constant = draws.constant
        height = self.moving_constant if math.isfinite(self.moving_constant) else self._height()
        gap = max(height - self.floor, 1e-12)
        fit = self._attempt(self._rate, MOVING_STEPS, self.floor + (enough - 0.1) * gap, moving=True)
        final = settled(fit.losses, 2 * MOVING_WINDOW if len(fit.losses) == MOVING_STEPS else MOVING_WINDOW)
        self.curves["with randomness moving"] = list(fit.losses)
        return (final - self.floor) / gap, final, len(fit.losses)

    def noise_is_dropout(self) -> bool:
        """Whether a signal survives once dropout is off and everything else random still moves."""
        with dropout_off(self.session.model):
            if not self.is_stochastic():
                return True
            left, _, _ = self.fit_moving(0.9)
        return left <= 0.9

    # --- does it

    def fit_own(self, factor: float, enough: float) -> OwnFit | None:
        """The user's own step at `factor` times the planned peak rate; None if there is no step, or no loss to judge."""
        if self._own is None:
            self._own = self.bench.session()
            if not self._own.can_step:
                self.no_step = "no optimizer given: add 'optimizer' or 'train_step' to the set-up"
                return None
            if self._batch is None:
                self._whole = batches.clone(self._own.first_batch())
                self._batch = batches.clone(batches.cut(self._whole, SAMPLES))
            self._own_snapshot = self._own.snapshot()
            self._peaks = self.bench.peak_rates() or self._own.learning_rates()
        self.bench.tell(0.7, f"fitting one batch with your own step at {factor:g} times your rate")
        rates = [peak * factor for peak in self._peaks]
        try:
            fit, changed = self._run_own(self._batch, rates, enough)
        except UserCodeError:
            if batches.size(self._whole) == self.samples:
                raise
            # A step may rely on the loader's batch size.
            self._batch = self._whole
            self._own = self.bench.session()
            self._own_snapshot = self._own.snapshot()
            fit, changed = self._run_own(self._batch, rates, enough)
        if not fit.losses or (all(map(math.isnan, fit.losses)) and math.isnan(fit.losses[0])):
            self.no_step = "train_step returns no loss"
            return None
        name = "your optimizer" if factor == 1 else f"your optimizer at {factor:g} × your rate"
        self.curves[name] = list(fit.losses)
        constant = self._height() if math.isfinite(self._height()) else fit.losses[0]
        floor = self.floor if math.isfinite(self.start) else 0.0
        return OwnFit(fit, constant, floor, changed)

    def _run_own(self, batch: Any, rates: Sequence[float], enough: float) -> tuple[Fit, bool]:
        own = self._own
        assert own is not None
        own.restore(self._own_snapshot)
        own.model.train()
        before = weights(own.model)
        level = self._level(enough) if math.isfinite(self.start) else None
        fewest = FEWEST_STEPS * own.setup.accumulate_steps

        def stop(losses: list[float]) -> bool:
            target = level if level is not None else losses[0] * enough
            return len(losses) >= fewest and settled(losses) <= target

        steps = min(OWN_STEPS * own.setup.accumulate_steps, 4 * OWN_STEPS)
        fit = fit_with_own_step(own, batch, rates=rates, steps=steps, seed=self.seed, stop=stop)
        return fit, moved(before, own.model)

    def why_unmoved(self) -> str:
        """A guess, from what the optimizer holds."""
        own = self._own
        optimizer = own.setup.optimizer if own else None
        if own is None or optimizer is None:
            return "train_step never steps an optimizer of this model"
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        count = sum(id(p) in held for p in own.model.parameters())
        if not count:
            return "the optimizer holds none of the model's parameters"
        if not any(self._peaks):
            return "every learning rate is zero"
        return f"the optimizer holds {count} of its parameters, but they stay as they are"

    def missing_parameters(self) -> str:
        """(for example x)` for a trainable parameter that the set-up's optimizer does not hold, else nothing."""
        own = self._own
        if own is None or own.setup.optimizer is None:
            return ""
        held = {id(p) for group in own.setup.optimizer.param_groups for p in group["params"]}
        missing = [name for name, p in own.model.named_parameters() if p.requires_grad and id(p) not in held]
        return f" (for example {missing[0]})" if missing else ""

    # --- telling

    def measurements(self) -> dict[str, Any]:
        """Curves and levels, for the report."""
        return {
            "curves": self.curves, "constant": self.levels.constant, "oracle": self.levels.oracle, "samples": self.samples,
        }  # fmt: skip

    def summary(self) -> str:
        """One line for a pass."""
        parts = []
        for name, curve in self.curves.items():
            if name in {"stabcheck's Adam", "your optimizer"}:
                parts.append(f"{name}: loss {curve[0]:.3g} to {min(curve):.3g} in {len(curve)} steps")
        return "; ".join(parts)


def _cut(session: Session, loss: torch.Tensor) -> str:
    if not any(p.requires_grad for p in session.model.parameters()):
        return "no parameter requires a gradient"
    if not loss.requires_grad:
        return "it does not require grad"
    parameters = [p for p in session.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=False)
    return "" if any(g is not None for g in gradients) else "backward reaches none of them"


def _crossed(outputs: torch.Size, targets: torch.Size) -> bool:
    """Whether elementwise arithmetic would spread both over more elements than either has, as (N, 8, 8) with (N, 1, 8, 8)."""
    try:
        both = torch.broadcast_shapes(outputs, targets).numel()
    except RuntimeError:
        return False
    return both > max(outputs.numel(), targets.numel())


def _is_tokens(batch: Any) -> bool:
    first = next(batches.tensors(batch), None)
    return first is not None and not first.is_floating_point() and first.dim() >= 2 and first.shape[1] > 1


def _rows(value: Any, count: int) -> list[tuple[Any, ...]]:
    """Each sample of `value` as something comparable; empty if its tensors have no common first axis."""
    found = list(batches.tensors(value))
    if not found or any(not t.dim() or len(t) != count for t in found):
        return []
    return [tuple(t[i].detach().cpu().float().numpy().tobytes() for t in found) for i in range(count)]


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
