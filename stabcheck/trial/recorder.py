"""The trial: real training steps of a fresh set-up under observation, and what is measured after them.

Observing changes nothing: during the steps only norms and counts are taken, in hooks that are gone
afterwards. Everything that needs the model for itself (yardsticks, recurrences, disturbed parameters)
waits until the last step is done.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from stabcheck.check import Skip
from stabcheck.recording import CONSTANT_LEVEL, OPTIMIZER_STEPS, Clipping, Dropped, PrecisionFacts, Recording
from stabcheck.trial import batches, norms, records, yardsticks
from stabcheck.trial.bench import Bench
from stabcheck.trial.disturbance import matters
from stabcheck.trial.dropped import dropped
from stabcheck.trial.loop_spy import LoopSpy
from stabcheck.trial.modes import held_by
from stabcheck.trial.probes import RectifierProbe, SignalProbe, SignalReading
from stabcheck.trial.rectifiers import RectifierLog
from stabcheck.trial.recurrence import by_hand, by_parameter, recurrences
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

SAMPLES_FOR_YARDSTICKS = 256
"""Fewer rows let a constant prediction fit their label counts by luck."""
MAX_YARDSTICK_BATCHES = 8
MAX_DISTURBED = 16
"""Modules without a gradient that are disturbed, at three forwards each."""
BAD_STEPS_TO_STOP = 3
"""A loss that was NaN or infinite so many times in a row does not come back."""


def record_trial(bench: Bench, *, steps: int) -> Recording:
    """Train a fresh set-up for `steps` calls of its training step and say what was seen.

    Raises:
        Skip: the set-up does not say how it trains.
        UserCodeError: not even one step could be taken.
    """
    session = bench.session()
    if not session.can_step:
        raise Skip("no optimizer given: add 'optimizer' or 'train_step' to the set-up")
    return _Trial(bench, session, min(steps, _end_of_schedule(session, steps))).run()


def _end_of_schedule(session: Session, steps: int) -> int:
    """Calls of the training step before OneCycleLR raises because it is at its end; `steps` for all others."""
    end = getattr(session.setup.scheduler, "total_steps", None)
    if isinstance(end, int) and session.interval == "step":
        return end * session.setup.accumulate_steps
    return steps


def sample_steps(steps: int) -> tuple[int, ...]:
    """The steps at which the expensive quantities are read: dense at the start, then every fifth or so."""
    wanted = (0, 1, 2, 4, 8, 13, 19, 25, 32, 39)
    scaled = {round(w * (steps - 1) / 39) if w > 4 else w for w in wanted}
    return tuple(sorted(s for s in scaled if 0 <= s < steps))


class _Trial:
    def __init__(self, bench: Bench, session: Session, steps: int) -> None:
        self.bench, self.session, self.planned = bench, session, steps
        self.model = session.model
        self.spy = LoopSpy(self.model)
        self.signal_probe = SignalProbe(self.model)
        self.rectifiers = RectifierLog(steps)
        self.sampled: list[int] = []
        self.steps: list[dict[str, Any]] = []
        self.raw: list[dict[str, torch.Tensor]] = []
        self.seen: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.updates: list[dict[str, torch.Tensor]] = []
        self.signals: list[dict[str, SignalReading]] = []
        self.kept_batches: list[Any] = []
        self.scaling: dict[str, list[int]] = {"skipped": [], "around_scaler": []}
        self.last_scale: torch.Tensor | None = None
        self.not_recorded: list[tuple[str, str]] = []
        self.failure: str | None = None
        self.bad_batch: int | None = None
        parameters = dict(self.model.named_parameters())
        self.at_start = {name: (p.requires_grad, *_is_constant(p)) for name, p in parameters.items()}

    def run(self) -> Recording:
        wanted = set(sample_steps(self.planned))
        bad = 0
        with self.spy.watching():
            iterator = self.session.train_batches()
            for index in range(self.planned):
                try:
                    _, batch = next(iterator)
                    self._keep(batch)
                    self._step(index, batch, sampled=index in wanted)
                except UserCodeError as error:
                    if not self.steps or error.blame == "stabcheck":
                        raise
                    self.failure = str(error)
                    break
                loss = self.steps[-1]["loss"]
                is_bad = loss is not None and not math.isfinite(loss)
                bad = bad + 1 if is_bad else 0
                if is_bad and self.bad_batch is None and not batches.all_finite(batch):
                    self.bad_batch = index
                self.bench.tell((index + 1) / self.planned, f"step {index + 1} of {self.planned}")
                if bad >= BAD_STEPS_TO_STOP or self.bench.remaining() < 0:
                    break
        return self._recording()

    def _keep(self, batch: Any) -> None:
        have = sum(batches.size(b) for b in self.kept_batches)
        if have < SAMPLES_FOR_YARDSTICKS and len(self.kept_batches) < MAX_YARDSTICK_BATCHES:
            self.kept_batches.append(batches.clone(batch))

    def _step(self, index: int, batch: Any, *, sampled: bool) -> None:
        spy, samples = self.spy, batches.size(batch)
        self.rectifiers.samples_per_step = samples
        spy.begin()
        with contextlib.ExitStack() as stack:
            readings = stack.enter_context(self.signal_probe.inserted()) if sampled else {}
            if self.rectifiers.wants(index):
                probe = RectifierProbe(self.model, self.rectifiers.written)
                calls = stack.enter_context(probe.inserted())
                spy.on_backward = lambda root: self.rectifiers.trace(index, root, calls)
                stack.callback(setattr, spy, "on_backward", None)
            before = self._copies() if sampled else {}
            loss = self.session.step(batch)
        if self.rectifiers.wants(index):
            self.rectifiers.add(index, calls)
        if sampled:
            self.sampled.append(index)
            self.signals.append(readings)
            now = dict(self.model.named_parameters())
            same = [name for name in before if name in now and now[name].shape == before[name].shape]
            self.weights.append(dict(zip(same, norms.norms([before[n] for n in same]), strict=True)))
            changes = [now[n].detach() - before[n] for n in same]
            self.updates.append(dict(zip(same, norms.norms(changes), strict=True)))
        if loss is None and spy.root is not None:
            loss = float(spy.root) / float(spy.scale)
        raw, seen = spy.raw, spy.seen
        scale = spy.scale
        for fact, at in self.scaling.items():
            at += [index] * getattr(spy, fact)
        if isinstance(scale, torch.Tensor):
            self.last_scale = scale
            raw = {name: value / scale.to(value.device) for name, value in raw.items()}
        self.raw.append(raw)
        self.seen.append(seen)
        self.steps.append({"index": index, "loss": loss, "samples": samples, "lr": spy.rates, "stepped": spy.stepped})

    def _copies(self) -> dict[str, torch.Tensor]:
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if not is_lazy(p)}

    # --- after the last step

    def _recording(self) -> Recording:
        bench, session, setup = self.bench, self.session, self.session.setup
        raw, seen = records.table(self.raw), records.table(self.seen)
        known = self.spy.optimizers or ([setup.optimizer] if setup.optimizer is not None else [])
        if not self.spy.optimizers:
            self.not_recorded.append((OPTIMIZER_STEPS, "no torch.optim.Optimizer of this model stepped in the trial"))
        steps = records.step_records(self.steps, raw, seen)
        matters = self._matters(raw, seen)
        signals = records.signal_records(self.signals)
        parameters = records.parameter_records(
            self.model, raw, seen, records.table(self.weights), records.table(self.updates),
            counts=(len(steps), len(self.sampled)), at_start=self.at_start,
            held=held_by(*known, setup.optimizer),
            matters=matters,
        )  # fmt: skip
        bench.tell(None, "measuring the loss's own levels")
        levels = yardsticks.measure(session, self.kept_batches, bench.seed)
        if levels.constant is None:
            self.not_recorded.append((CONSTANT_LEVEL, levels.note))
        bad = ("input", "", self.bad_batch) if self.bad_batch is not None else None
        return Recording(
            target=bench.entry.target, seed=bench.seed, loop="train_step" if setup.train_step else "textbook",
            planned=self.planned, steps=steps, sampled=tuple(self.sampled), parameters=parameters, signals=signals,
            rectifiers=self.rectifiers.finished(len(steps)),
            recurrences=(
                *recurrences(session, self.kept_batches[:1], bench.seed),
                *(by_hand(self.signals[-1]) if self.signals else ()),
                *by_parameter(session, self.kept_batches[:1], bench.seed),
            ),
            yardsticks=levels, optimizers=tuple(records.optimizer_facts(o) for o in known),
            clipping=Clipping(setup.clip_grad_norm, self.spy.clip_threshold),
            tokens=bool(signals) and signals[0].kind.startswith("Embedding"), accumulate_steps=setup.accumulate_steps,
            planned_steps=session.planned_steps, warmup_share=self._warmup_share(),
            first_non_finite=bad or records.first_non_finite(steps, parameters, signals, self.sampled),
            precision=PrecisionFacts(
                autocast=tuple(self.spy.autocast), scaled=self.last_scale is not None,
                last_scale=float(self.last_scale) if self.last_scale is not None else None,
                skipped=tuple(self.scaling["skipped"]), around_scaler=tuple(self.scaling["around_scaler"]),
            ),
            dropped=self._dropped(matters, raw, seen),
            failure=self.failure, sources=bench.sources,
            not_recorded=tuple(self.not_recorded), places=bench.places, kinds=bench.kinds,
        )  # fmt: skip

    def _matters(self, raw: dict[str, records.Column], seen: dict[str, records.Column]) -> dict[str, bool | None]:
        """Whether the loss depends on the parameters that no gradient reached, or none but zeros, though their module ran.
        One parameter speaks for its module."""
        silent = [
            (name, p)
            for name, p in self.model.named_parameters()
            if p.requires_grad
            and name.rpartition(".")[0] in self.signal_probe.called
            and (records.never_reached(name, raw, seen) or records.always_zero(name, raw))
        ]
        found: dict[str, bool | None] = {}
        modules: dict[str, bool | None] = {}
        for name, p in silent:
            module = name.rpartition(".")[0]
            if module not in modules and len(modules) < MAX_DISTURBED:
                modules[module] = matters(self.session, p, self.kept_batches[0], self.bench.seed, self.spy.optimizers)
            found[name] = modules.get(module)
        return found

    def _dropped(
        self, matters: dict[str, bool | None], raw: dict[str, records.Column], seen: dict[str, records.Column]
    ) -> tuple[Dropped, ...]:
        whole: dict[str, bool] = {}
        for name, p in self.model.named_parameters():
            silent = not p.requires_grad or (matters.get(name) is False and records.never_reached(name, raw, seen))
            module = name.rpartition(".")[0]
            whole[module] = whole.get(module, True) and silent
        wanted = {name.rpartition(".")[0] for name in matters}
        names = [module for module, silent in whole.items() if silent and module in wanted]
        return dropped(self.session, names, self.kept_batches[0], self.bench.seed)

    def _warmup_share(self) -> float | None:
        rates = [max(s["lr"]) for s in self.steps if s["lr"]]
        try:
            peak = max(self.bench.peak_rates(), default=0.0)
        except (Skip, UserCodeError):  # lr-schedule tells what is wrong with it
            return None
        return max(rates) / peak if rates and peak else None


def _is_constant(parameter: torch.Tensor) -> tuple[bool, bool]:
    """(all zero, all equal) for a parameter of more than one element."""
    if is_lazy(parameter) or parameter.numel() < 2:
        return False, False
    flat = parameter.detach().reshape(-1)
    equal = bool((flat == flat[0]).all())
    return equal and float(flat[0]) == 0.0, equal
