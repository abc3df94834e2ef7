"""Stepping a scheduler without training: exact, quick enough, and leaving nothing behind."""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from stabcheck.trial.schedule import simulation as schedule_module
from stabcheck.trial.schedule.cadence import CallForm, call_form, observe
from stabcheck.trial.schedule.rate_shape import SPENT_EARLY, distinct, natural_end, shape_of, thin
from stabcheck.trial.schedule.simulation import Schedule, planned_peaks
from stabcheck.trial.session import Session
from tests.setups import classifier

CALLS = 2500

Build = Callable[[torch.optim.Optimizer], Any]


class InverseRoot(schedulers.LRScheduler):
    """A user's own, that reads what torch's `step` keeps for it."""

    def get_lr(self) -> list[float]:
        return [base / math.sqrt(max(1, self._step_count)) for base in self.base_lrs]


class Timm:
    """The interface of timm's schedulers: no base class of torch's, and the step number as argument."""

    def __init__(self, optimizer: torch.optim.Optimizer, length: int) -> None:
        self.optimizer, self.length = optimizer, length

    def step(self, epoch: int, metric: float | None = None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 * max(0.0, 1 - epoch / self.length)

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        self.step(num_updates)


BUILDS: dict[str, Build] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 100) * max(0.0, 1 - step / 3000)),
    "LambdaLR per group": lambda o: schedulers.LambdaLR(o, [lambda step: 1.0, lambda step: 0.999**step]),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.999),
    "StepLR": lambda o: schedulers.StepLR(o, 300, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1000, 2000]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 77),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 500),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.999),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 2000, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 700),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 100, 2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 130, mode="exp_range", gamma=0.999),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, [0.1, 0.2], total_steps=3000),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o,
        [
            schedulers.LinearLR(o, 0.01, total_iters=500),
            schedulers.CosineAnnealingLR(o, 1500),
            schedulers.ExponentialLR(o, 0.99),
        ],
        [500, 2000],
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.01, total_iters=500), schedulers.CosineAnnealingLR(o, 2500)]
    ),
    "ChainedScheduler with restarts": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.01, total_iters=500), schedulers.CosineAnnealingWarmRestarts(o, 250)]
    ),
    "user's own": InverseRoot,
}
every_scheduler = pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())


def optimizer(groups: int = 2) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [{"params": [nn.Parameter(torch.ones(1))], "lr": 0.1 / (i + 1)} for i in range(groups)], lr=0.1, momentum=0.9
    )


def stepped(build: Build, calls: int = CALLS) -> np.ndarray:
    """The obvious way: call it, and read the rates."""
    target = optimizer()
    scheduler = build(target)
    target.step()
    rates = [[group["lr"] for group in target.param_groups]]
    for _ in range(calls):
        scheduler.step()
        rates.append([group["lr"] for group in target.param_groups])
    return np.array(rates)


@every_scheduler
def test_rates_are_those_of_the_plain_loop_to_the_last_bit(build: Build) -> None:
    target = optimizer()

    curve = Schedule(build(target), target, CallForm()).curve(CALLS)

    assert curve.complete
    assert curve.stride == 1
    assert np.array_equal(curve.rates, stepped(build))


@every_scheduler
def test_a_curve_too_long_for_the_time_is_sampled_or_cut_and_never_wrong(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_module, "CHUNK", 64)
    monkeypatch.setattr(schedule_module, "SAMPLES", 500)
    target = optimizer()

    curve = Schedule(build(target), target, CallForm(), seconds=1e-9).curve(CALLS)

    expected = stepped(build)[:: curve.stride]
    assert np.allclose(curve.rates, expected[: len(curve.rates)], rtol=1e-9, atol=1e-15)
    assert curve.complete == (curve.stride > 1)
    assert len(curve.rates) >= 60


def test_a_later_and_longer_look_continues_where_the_first_ended() -> None:
    target = optimizer()
    schedule = Schedule(BUILDS["CosineAnnealingLR"](target), target, CallForm())

    first, second = schedule.curve(10), schedule.curve(CALLS)

    assert np.array_equal(first.rates, second.rates[:11])
    assert np.array_equal(second.rates, stepped(BUILDS["CosineAnnealingLR"]))
    assert np.array_equal(schedule.curve(10).rates, first.rates)


def test_no_parameter_moves_and_nothing_is_left_behind() -> None:
    target = optimizer()
    scheduler = schedulers.StepLR(target, 5)
    step = target.step
    for group in target.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Schedule(scheduler, target, CallForm()).curve(100)

    assert target.step is step
    assert all(float(p) == 1.0 for group in target.param_groups for p in group["params"])


def test_an_exhausted_schedule_raises_at_the_same_call_exact_and_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def curve(seconds: float) -> Any:
        target = optimizer()
        return Schedule(
            schedulers.OneCycleLR(target, 0.1, total_steps=1234), target, CallForm(), seconds=seconds
        ).curve(3000)

    exact = curve(8.0)
    monkeypatch.setattr(schedule_module, "CHUNK", 64)
    monkeypatch.setattr(schedule_module, "SAMPLES", 100)
    sampled = curve(1e-9)

    assert exact.raised_at == sampled.raised_at == 1235
    assert len(exact.rates) == 1235
    assert "total steps is 1234" in exact.error
    assert sampled.stride > 1


def test_a_sample_does_not_hide_a_cycle_of_round_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 100th rate of a cycle of 200 calls would be always the same two."""
    monkeypatch.setattr(schedule_module, "SAMPLES", 1000)
    target = optimizer()

    curve = Schedule(schedulers.CosineAnnealingLR(target, 100), target, CallForm(), seconds=1e-9).curve(100_000)

    assert curve.stride >= 100
    assert len(np.unique(curve.rates[:, 0].round(6))) > 50


def test_rates_that_live_in_tensors_are_read() -> None:
    target = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=torch.tensor(0.1))

    curve = Schedule(schedulers.StepLR(target, 2), target, CallForm()).curve(4)

    assert curve.rates[:, 0] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_a_scheduler_that_waits_for_a_metric_sees_it_improve() -> None:
    for mode in ("min", "max"):
        target = optimizer()
        scheduler = schedulers.ReduceLROnPlateau(target, mode=mode, patience=0)

        curve = Schedule(scheduler, target, call_form(scheduler, "epoch")).curve(500)

        assert curve.complete
        assert curve.rates.shape == (501, 2)
        assert not np.ptp(curve.rates, axis=0).any()


def test_a_timm_scheduler_is_given_its_step_number() -> None:
    target = optimizer(1)
    scheduler = Timm(target, 10)

    by_epoch = Schedule(scheduler, target, call_form(scheduler, "epoch")).curve(10).rates[:, 0]

    assert by_epoch[1:] == pytest.approx([0.1 * (1 - c / 10) for c in range(1, 11)])
    assert call_form(scheduler, "step").method == "step_update"


@pytest.mark.parametrize("seed", range(3))
def test_planned_peak_is_the_largest_rate_and_its_first_step(seed: int) -> None:
    warmup = 20 + 10 * seed

    def setup() -> dict[str, Any]:
        result = classifier(max_steps=300)()
        target = torch.optim.SGD([{"params": [p]} for p in result["model"].parameters()], lr=0.2)
        target.param_groups[0]["lr"] = 0.02
        scheduler = schedulers.LambdaLR(target, lambda s: s / warmup if s < warmup else (300 - s) / (300 - warmup))
        return {**result, "optimizer": target, "scheduler": scheduler, "scheduler_interval": "step"}

    peaks = planned_peaks(_session(setup))

    assert [peak.step for peak in peaks] == [warmup] * len(peaks)
    assert peaks[0].rate == pytest.approx(0.02)
    assert peaks[1].rate == pytest.approx(0.2)


def test_planned_peak_by_epoch_and_without_a_scheduler() -> None:
    def setup() -> dict[str, Any]:
        result = classifier(max_steps=None, max_epochs=4)()
        target = torch.optim.SGD(result["model"].parameters(), lr=0.1)
        scheduler = schedulers.LinearLR(target, 0.1, 1.0, total_iters=2)
        return {**result, "optimizer": target, "scheduler": scheduler, "scheduler_interval": "epoch"}

    (peak,) = planned_peaks(_session(setup))
    (constant,) = planned_peaks(_session(classifier(lr=0.3)))

    assert (peak.rate, peak.step) == (pytest.approx(0.1), 32)
    assert (constant.rate, constant.step) == (0.3, 0)


def test_observing_counts_calls_and_steps_and_leaves_the_set_up_as_it_was() -> None:
    def setup() -> dict[str, Any]:
        result = classifier()()
        model, target = result["model"], result["optimizer"]
        scheduler = schedulers.StepLR(target, 100)
        calls = 0

        def train_step(batch: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            loss: torch.Tensor = nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            if calls % 2 == 0:
                target.step()
                target.zero_grad()
            scheduler.step()
            return loss

        return {**result, "scheduler": scheduler, "train_step": train_step}

    session = _session(setup)
    seen = observe(session, optimizer_steps=5)

    assert (seen.train_steps, seen.optimizer_steps, seen.calls) == (10, 5, 10)
    assert seen.form(session.setup.scheduler) == CallForm()
    assert "step" not in vars(session.setup.scheduler)
    assert not sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks  # type: ignore[attr-defined]


def test_arguments_that_count_are_continued() -> None:
    def setup() -> dict[str, Any]:
        result = classifier()()
        model, target = result["model"], result["optimizer"]
        scheduler = schedulers.CosineAnnealingWarmRestarts(target, 10)
        calls = 0

        def train_step(batch: Any) -> torch.Tensor:
            nonlocal calls
            target.zero_grad()
            loss: torch.Tensor = nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            target.step()
            scheduler.step(calls / 16)
            calls += 1
            return loss

        return {**result, "scheduler": scheduler, "train_step": train_step}

    session = _session(setup)
    form = observe(session).form(session.setup.scheduler)

    assert form is not None
    assert form.arguments(33) == pytest.approx((2.0,))


def _session(function: Callable[[], dict[str, Any]]) -> Session:
    from stabcheck.loading import EntryPoint

    return Session(EntryPoint("test", function, {}).build())


# --- shapes


def test_spent_share_of_healthy_decays_is_far_from_the_threshold() -> None:
    """The numbers in the comment of SPENT_EARLY, by their definition."""
    x = np.arange(10_000) / 10_000
    curves = {
        "cosine": 0.5 * (1 + np.cos(np.pi * x)),
        "linear": 1 - x,
        "exponential": 1e-5**x,
        "tenfold drops": 0.1 ** np.floor(5 * x),
    }

    spent = {name: shape_of(curve).spent_at / len(curve) for name, curve in curves.items()}

    assert spent == pytest.approx({"cosine": 0.92, "linear": 0.97, "exponential": 0.6, "tenfold drops": 0.6}, abs=0.01)
    assert min(spent.values()) > SPENT_EARLY
    for name, curve in curves.items():
        running = list(itertools.accumulate(curve.tolist()))
        share = next(i for i, total in enumerate(running) if total >= 0.999 * running[-1]) / len(curve)
        assert spent[name] == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize(
    ("curve", "end", "rises"),
    [
        (0.5 * (1 + np.cos(np.pi * np.arange(300) / 200)), 200, True),
        (np.maximum(0.0, 1 - np.arange(300) / 200), 200, False),
        (np.maximum(0.1, 1 - np.arange(300) / 200), 180, False),
        (np.where(np.arange(300) < 50, np.arange(300) / 50, np.maximum(0, (200 - np.arange(300)) / 150)), 200, False),
        (1 - np.arange(300) / 200, 200, False),
    ],
    ids=["cosine turns", "linear reaches zero", "floor", "warm-up first", "becomes negative"],
)
def test_natural_end_of_a_schedule_with_a_length(curve: np.ndarray, end: int, rises: bool) -> None:
    found = natural_end(curve)

    assert found is not None
    assert (found.at, found.rises, found.gradual) == (end, rises, True)


@pytest.mark.parametrize(
    "curve",
    [0.99 ** np.arange(3000), 0.1 ** (np.arange(3000) // 30), np.ones(300), np.arange(300.0), 1 / (1 + np.arange(300))],
    ids=["exponential", "step", "constant", "rising", "hyperbolic"],
)
def test_no_natural_end_where_a_schedule_goes_on(curve: np.ndarray) -> None:
    assert natural_end(curve) is None


@pytest.mark.parametrize("period", [10, 33, 400])
def test_swings_are_counted_and_restarts_are_told_apart(period: int) -> None:
    t = np.arange(2000)

    smooth = shape_of(0.5 * (1 + np.cos(np.pi * t / period)))
    abrupt = shape_of(0.5 * (1 + np.cos(np.pi * (t % period) / period)))

    valleys = len([v for v in range(period, 2000, 2 * period) if 2000 - 1 - v > 0.25 * period])
    assert smooth.swings == valleys
    assert smooth.restarts == 0
    assert abrupt.swings == 0
    assert abrupt.restarts == (2000 - 1) // period


def test_thinning_keeps_ends_extremes_and_jumps() -> None:
    t = np.arange(100_000)
    spiked = 1 - t / 200_000
    spiked[71_234] = 3.0
    spiked[40_000:] *= 0.1
    rates = np.stack([spiked, 0.5 * spiked, np.ones(len(t))], axis=1)

    rows = thin(rates)

    assert len(rows) <= 200
    assert rows == sorted(set(rows))
    assert {0, 99_999, 71_234, 39_999, 40_000, int(np.argmin(spiked))} <= set(rows)
    assert distinct(rates) == [0, 2]


def test_thinning_keeps_the_envelope_of_fast_cycles() -> None:
    rates = 0.5 * (1 + np.cos(np.pi * np.arange(100_000) / 7))[:, None]

    shown = rates[thin(rates), 0]

    assert len(shown) <= 200
    assert (shown > 0.95).sum() > 50
    assert (shown < 0.05).sum() > 50
