"""A few training steps, the validation, and another step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from stabcheck.check import NotChecked
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import unseen_by_autograd
from stabcheck.trial.rng import RngState, kept_rng, rng_state
from stabcheck.trial.validation.answers import answers
from stabcheck.trial.validation.batch_norm import PROBES, BatchNormTest, is_erratic, last_of_epoch
from stabcheck.trial.validation.followers import follows
from stabcheck.trial.validation.forward_watch import ForwardWatch
from stabcheck.trial.validation.loss_probe import SAME_LOSS, LossProbe, differ
from stabcheck.trial.validation.mode_switches import beyond_eval, is_batch_norm, is_untouched
from stabcheck.trial.validation.rehearsal import Rehearsal
from stabcheck.trial.validation.sightings import Visit
from stabcheck.trial.validation.snapshots import set_aside
from stabcheck.trial.validation.state_shot import StateShot
from stabcheck.trial.validation.watched import run
from stabcheck.userland import UserCodeError

STEPS = 8
"""Training steps before the validation: enough for the optimizer state, gradients and modes of a run under way."""

BATCH_NORM_STEPS = 30
"""With BatchNorm: enough that training has moved the loss, against which the disagreement of the modes is measured."""

ERRATIC_STEPS = 100
"""With a momentum that makes the running statistics erratic: they do less harm while the net is hardly trained. What a last
batch of 3 costs, in units of the loss reduction: 0.2 after 30 steps, 0.5 after 80, 0.6 after 160 (MLP, momentum 0.99)."""

SHARE_OF_BUDGET = 0.4
"""A validation is broken off after this share of the time left, so that the checks after this one get theirs."""

UNCHANGED = 1e-6
"""Relative change that still counts as restored: swapping weights by arithmetic costs some float32 roundings (6e-8)."""

SHARE_OF_TRAINING = 0.15
"""The steps before the validation end early after this share of the time left."""

KEPT_BYTES = 256 * 2**20
"""Training batches are kept for the BatchNorm comparison up to this size."""

ASKINGS = 10
"Validations whose time must be left to try it with other outputs; where nothing is wrong six are needed."

_BATCH_NORM = "BatchNorm in eval mode against training"

EXPLAINED = 20
"""Modules in training mode for which the reason is looked up; one finding names the first."""


def rehearse(bench: Bench) -> Rehearsal:
    """Train a little, validate, train on, and report what was seen.

    Raises:
        UserCodeError: the user's code raised.
        Skip: the set-up gives nothing to validate with.
    """
    return _Rehearsing(bench).all()


class _Rehearsing:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._session = bench.session()
        self._own_step = self._session.setup.train_step is not None
        self._known = set_aside(self._session)
        self._left_out: list[NotChecked] = []
        self._stream: Iterator[tuple[int, Any]] = self._session.train_batches()
        self._trained: list[Any] = []
        self._probe: LossProbe | None = None
        self._losses: list[float] = []
        self._steps = 0
        self._stepped: dict[int, Visit] = {}
        """Visits of the first training step."""
        self._fresh: set[str] = set()
        """BatchNorm layers whose running statistics were the initial ones when training began."""
        self._eval_steps: tuple[Visit, ...] = ()
        self._eval_in_step = False

    def all(self) -> Rehearsal:
        session = self._session
        test = self._train()
        self._bench.tell(0.4, "validating")
        rng, before = rng_state(), StateShot.of(session)
        first = run(session, seconds=self._limit())
        after, drawn = StateShot.of(session), rng_state()
        seen = Rehearsal(
            setup=session.setup,
            steps=self._steps,
            losses=tuple(self._losses),
            run=first,
            changes=before.changes(after, UNCHANGED),
        )
        self._explain(seen)
        if first.stopped:
            self._leave_out(
                "what validate() returns and leaves behind",
                f"it was broken off after {first.seconds:.0f} s and {first.forwards} forwards: "
                "raise --budget, or give a set-up with less validation data",
            )
        else:
            self._bench.tell(0.6, "validating again")
            self._repeat(seen, rng, drawn, before)
            self._weigh_buffers(seen, before, after)
            self._step_after(seen, after)
            if self._session.can_step and not seen.fails_after and not seen.changes.frozen:
                seen.follows = follows(self._session, first, self._step)
        self._bench.tell(0.8, "comparing BatchNorm in both modes")
        self._compare_batch_norm(seen, test)
        seen.not_copied = tuple(sorted(set_aside(session) - self._known))
        # Last, for what validate() keeps of its results is then that of other answers.
        if seen.own and ASKINGS * first.seconds < self._limit() and not (first.stopped or seen.fails_after):
            seen.answers = answers(session, self._limit())
        seen.not_checked = tuple(self._left_out)
        return seen

    # --- training

    def _train(self) -> BatchNormTest | None:
        session = self._session
        if not session.can_step:
            self._leave_out("validation of a trained model", "the set-up has neither 'train_step' nor 'optimizer'")
            session.model.train()
            return None
        until = time.monotonic() + SHARE_OF_TRAINING * self._bench.remaining()
        self._bench.tell(0.0, "training a little")
        self._fresh = {n for n, m in session.model.named_modules() if is_batch_norm(m) and is_untouched(m)}
        with ForwardWatch(session.model) as watch:
            self._step()
        self._stepped = watch.visits
        slept = [call.module for call in watch.mode_calls if not call.mode]
        # To freeze a part is deliberate; the whole model is one line that was copied from the validation.
        if self._own_step and (not slept or session.model in slept):
            self._eval_steps, self._eval_in_step = watch.all_in_eval(), bool(slept)
        layers = {
            v.path: v.module for v in watch.visits.values() if v.training and v.of_model and is_batch_norm(v.module)
        }
        test = self._batch_norm_test(layers) if layers else None
        erratic = any(is_erratic(m) for m in layers.values())
        wanted = STEPS if test is None else ERRATIC_STEPS if erratic else BATCH_NORM_STEPS
        while self._steps < wanted and (self._steps < 2 or time.monotonic() < until):
            self._step()
        if test is not None and self._steps < BATCH_NORM_STEPS:
            self._leave_out(_BATCH_NORM, f"{BATCH_NORM_STEPS} steps do not fit the --budget")
            return None
        return test

    def _step(self) -> Any:
        _, batch = next(self._stream)
        if sum(t.nbytes for b in self._trained for t in batches.tensors(b)) < KEPT_BYTES:
            self._trained.append(batches.clone(batch))
            self._probe = self._probe or LossProbe(self._session, self._trained[0])
        loss = self._session.step(batch)
        if loss is not None:
            self._losses.append(loss)
        self._steps += 1
        return batch

    # --- validating again

    def _repeat(self, seen: Rehearsal, rng: RngState, drawn: RngState, before: StateShot) -> None:
        session, first = self._session, seen.run
        if 4 * first.seconds > self._limit():
            self._leave_out(
                "whether validating again gives the same", f"one validation takes {first.seconds:.0f} s of the --budget"
            )
            return
        if not seen.changes.parameters and not seen.changes.buffers:
            try:
                drawn.restore()
                torch.rand(1)  # from another state than the first ended in: only seeding leads there again
                seen.repeat = run(session)
                seen.reseeds = torch.equal(drawn.torch_state, rng_state().torch_state)
            except UserCodeError as error:
                seen.fails_after = "validate(), called again,", error.message
                return
        if not any(v.training and v.switch for v in first.visits):
            return
        self._put_back(before, rng)
        try:
            seen.in_eval = run(session, force_eval=True)
        except UserCodeError:
            return  # a model that gives something else in eval mode, such as detections in place of losses
        if first.same_outputs(seen.in_eval, 0.0):
            seen.mode_matters = False
            return
        self._put_back(before, rng)
        if run(session).same_outputs(first):  # else it cannot be told from other chance
            seen.mode_matters = None if first.same_outputs(seen.in_eval) else True

    def _put_back(self, shot: StateShot, rng: RngState | None = None) -> None:
        """Buffers and random numbers as they were, for doing the same under the same conditions."""
        with torch.no_grad(), unseen_by_autograd(self._session.model.buffers()):
            for name, buffer in self._session.model.named_buffers():
                if name in shot.buffers and shot.buffers[name].shape == buffer.shape:
                    buffer.copy_(shot.buffers[name])
        if rng is not None:
            rng.restore()

    def _weigh_buffers(self, seen: Rehearsal, before: StateShot, after: StateShot) -> None:
        if self._probe is None or not seen.changes.buffers or seen.changes.parameters:
            return
        losses = []
        for shot in (before, after):
            self._put_back(shot)
            losses.append([self._probe.loss(training=mode) for mode in (True, False)])
        seen.buffers_matter = differ(zip(*losses, strict=True), SAME_LOSS)

    def _explain(self, seen: Rehearsal) -> None:
        asked = [v for v in seen.run.visits if v.training and v.switch][:EXPLAINED]
        for visit in asked:
            why = beyond_eval(visit.root, visit.module)
            if why is not None:
                seen.beyond[id(visit.module)] = why
        if any(a.by_hand for a in seen.run.activities):
            seen.noisy_in_eval = self._probe.is_noisy_in_eval() if self._probe else None

    # --- training on

    def _step_after(self, seen: Rehearsal, after: StateShot) -> None:
        if not self._own_step:
            return
        model = self._session.model
        for name, module in model.named_modules():
            module.training = after.modes.get(name, module.training)
        held: dict[str, bool] = {}
        parameters = dict(model.named_parameters())
        left = [name for name in seen.changes.gradients if parameters[name].requires_grad]
        try:
            with attached(_at_gradient(name, parameters[name], held) for name in left), ForwardWatch(model) as watch:
                self._step()
        except UserCodeError as error:
            seen.fails_after = seen.fails_after or ("train_step", error.message)
            return
        seen.accumulates = any(held.values()) if held else None
        for key, visit in watch.visits.items():
            visit.drops = visit.drops or (key in self._stepped and self._stepped[key].drops)
        seen.flipped = tuple(
            v
            for key, v in watch.visits.items()
            if v.switch and key in self._stepped and self._stepped[key].has_flipped(v)
        )
        seen.eval_steps, seen.eval_in_step = self._eval_steps, self._eval_in_step
        if any(v.effect == "custom" for v in (*seen.flipped, *seen.eval_steps)):
            seen.eval_matters = self._probe.depends_on_mode() if self._probe else None

    # --- BatchNorm

    def _batch_norm_test(self, layers: dict[str, nn.Module]) -> BatchNormTest | None:
        with kept_rng():
            probes = list(islice(self._session.epoch(), PROBES))
        try:
            return BatchNormTest(self._session, layers, self._fresh, probes, self._bench.seed)
        except UserCodeError as error:
            self._leave_out(_BATCH_NORM, f"the loss cannot be computed in eval mode ({error.message})")
            return None

    def _compare_batch_norm(self, seen: Rehearsal, test: BatchNormTest | None) -> None:
        if test is None or seen.run.stopped or seen.run.stepped:
            return
        planned = self._session.planned_steps
        forwards = planned * self._session.setup.accumulate_steps if planned else None
        try:
            seen.batch_norm = test.report(
                self._trained[:BATCH_NORM_STEPS], forwards, last_of_epoch(self._session.setup.train_loader)
            )
        except UserCodeError as error:
            self._leave_out(_BATCH_NORM, str(error))

    def _limit(self) -> float:
        return SHARE_OF_BUDGET * max(self._bench.remaining(), 1.0)

    def _leave_out(self, what: str, why: str) -> None:
        self._left_out.append(NotChecked(what, why))


def _at_gradient(name: str, parameter: nn.Parameter, held: dict[str, bool]) -> RemovableHandle:
    """Note, when the first gradient arrives, whether there is one already that it will be added to."""

    def note(_: torch.Tensor) -> None:
        held.setdefault(name, parameter.grad is not None and bool(parameter.grad.any()))

    handle: RemovableHandle = parameter.register_hook(note)
    return handle
