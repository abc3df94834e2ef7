"""Healthy and mis-sized schedules of every kind, each over a whole planned run of 10 epochs of 22 batches."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from stabcheck.check import Finding, Outcome, Skip
from stabcheck.experiments.lr_schedule import CHECK
from stabcheck.judging import judge
from stabcheck.trial.bench import Bench
from tests.setups import classifier

EPOCHS, BATCHES = 10, 22
STEPS = EPOCHS * BATCHES

MakeBench = Callable[..., Bench]
Build = Callable[[torch.optim.Optimizer], Any]


def setup(
    build: Build | None,
    interval: str | None = "step",
    *,
    own: Callable[..., Any] | None = None,
    lr: float = 0.1,
    groups: list[float] | None = None,
    batches: int = BATCHES,
    given: bool = True,
    **keys: Any,
) -> Callable[[], dict[str, Any]]:
    """An entry function. `own(model, optimizer, scheduler)` makes its train_step."""
    keys = keys or {"max_epochs": EPOCHS}

    def function() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        parameters: Any = list(model.parameters())
        if groups is not None:
            parameters = [{"params": [p], "lr": rate} for p, rate in zip(parameters, groups, strict=False)]
        optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
        scheduler = build(optimizer) if build else None
        result = {
            "model": model,
            "train_loader": [
                (torch.randn(4, 3, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(batches)
            ],
            "loss_fn": nn.MSELoss(),
            "optimizer": optimizer,
            "scheduler": scheduler if given else None,
            "scheduler_interval": interval,
            **keys,
        }
        if own is not None:
            result["train_step"] = own(model, optimizer, scheduler)
        return result

    return function


def own_step(
    *,
    calls: int = 1,
    accumulate: int = 1,
    every_batch: bool = False,
    arguments: Callable[[int], tuple[float, ...]] = lambda count: (),
    rate: Callable[[int], float] | None = None,
) -> Callable[..., Any]:
    """Makes train_steps: the scheduler is called `calls` times per optimizer step (or batch), or the rate is set by hand."""

    def make(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> Callable[[Any], torch.Tensor]:
        count = 0

        def train_step(batch: Any) -> torch.Tensor:
            nonlocal count
            if rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate(count)
            count += 1
            loss: torch.Tensor = nn.functional.mse_loss(model(batch[0]), batch[1])
            loss.backward()
            stepped = count % accumulate == 0
            if stepped:
                optimizer.step()
                optimizer.zero_grad()
            for _ in range(calls if stepped or every_batch else 0):
                scheduler.step(*arguments(count))
            return loss

        return train_step

    return make


def outcome(make_bench: MakeBench, function: Callable[[], dict[str, Any]], **options: Any) -> Outcome:
    result: Outcome = CHECK.run(make_bench(function, **options))
    json.dumps(result.measurements, allow_nan=True)
    json.dumps([finding.evidence for finding in result.findings])
    return result


def only(result: Outcome, code: str, severity: str = "fail") -> Finding:
    assert [(finding.code, finding.severity) for finding in result.findings] == [(code, severity)]
    return result.findings[0]


def linear(warmup: int, length: int) -> Callable[[int], float]:
    """Hugging Face's get_linear_schedule_with_warmup."""
    return lambda step: step / warmup if step < warmup else max(0.0, (length - step) / (length - warmup))


def cosine(warmup: int, length: int, cycles: float = 0.5) -> Callable[[int], float]:
    """Hugging Face's get_cosine_schedule_with_warmup."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(0.0, 0.5 * (1 + math.cos(math.pi * cycles * 2 * (step - warmup) / (length - warmup))))

    return factor


def stable(warmup: int, decay: int, length: int) -> Callable[[int], float]:
    """Warm-up, stable, decay."""
    return lambda step: step / warmup if step < warmup else min(1.0, max(0.0, (length - step) / (length - decay)))


class Own(schedulers.LRScheduler):
    """A user's own scheduler: cosine, then constant."""

    def __init__(self, optimizer: torch.optim.Optimizer, length: int) -> None:
        self.length = length
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [
            base * 0.5 * (1 + math.cos(math.pi * min(1.0, self.last_epoch / self.length))) for base in self.base_lrs
        ]


class Plain:
    """A scheduler that is no torch class: linear to zero."""

    def __init__(self, optimizer: torch.optim.Optimizer, length: int) -> None:
        self.groups, self.length, self.count = optimizer.param_groups, length, 0

    def step(self) -> None:
        self.count += 1
        for group in self.groups:
            group["lr"] = 0.1 * max(0.0, 1 - self.count / self.length)


class Timm:
    """timm's interface; `in_epochs` ignores updates."""

    def __init__(self, optimizer: torch.optim.Optimizer, length: int, in_epochs: bool) -> None:
        self.optimizer, self.length, self.in_epochs = optimizer, length, in_epochs

    def step(self, epoch: int) -> None:
        self._set(epoch if self.in_epochs else None)

    def step_update(self, num_updates: int) -> None:
        self._set(None if self.in_epochs else num_updates)

    def _set(self, time: int | None) -> None:
        for group in self.optimizer.param_groups if time is not None else ():
            group["lr"] = 0.1 * max(0.0, 1 - time / self.length)


def sized(length: int) -> dict[str, Build]:
    """Every kind of schedule, made for `length` calls."""
    s, warm = schedulers, max(1, length // 10)
    return {
        "StepLR": lambda o: s.StepLR(o, max(1, length // 2)),
        "StepLR halving": lambda o: s.StepLR(o, max(1, length // 5), 0.5),
        "MultiStepLR": lambda o: s.MultiStepLR(o, [length // 2, 8 * length // 10]),
        "PolynomialLR": lambda o: s.PolynomialLR(o, length, power=0.9),
        "PolynomialLR square": lambda o: s.PolynomialLR(o, length, power=2.0),
        "LinearLR": lambda o: s.LinearLR(o, 1.0, 0.1, length),
        "CosineAnnealingLR": lambda o: s.CosineAnnealingLR(o, length),
        "CosineAnnealingLR with floor": lambda o: s.CosineAnnealingLR(o, length, eta_min=0.01),
        "CosineAnnealingWarmRestarts": lambda o: s.CosineAnnealingWarmRestarts(o, length),
        "OneCycleLR": lambda o: s.OneCycleLR(o, 0.1, total_steps=length),
        "Hugging Face linear": lambda o: s.LambdaLR(o, linear(warm, length)),
        "Hugging Face cosine": lambda o: s.LambdaLR(o, cosine(warm, length)),
        "warm-up, stable, decay": lambda o: s.LambdaLR(o, stable(warm, 8 * length // 10, length)),
        "SequentialLR": lambda o: s.SequentialLR(
            o, [s.LinearLR(o, 0.01, total_iters=warm), s.CosineAnnealingLR(o, length - warm)], [warm]
        ),
        "ChainedScheduler": lambda o: s.ChainedScheduler(
            [s.LinearLR(o, 0.1, total_iters=warm), s.CosineAnnealingLR(o, length)]
        ),
        "user's own": lambda o: Own(o, length),
        "no torch class": lambda o: Plain(o, length),
    }


ENDLESS: dict[str, Callable[[int], Build]] = {
    "ExponentialLR": lambda length: lambda o: schedulers.ExponentialLR(o, 0.03 ** (1 / length)),
    "MultiplicativeLR": lambda length: lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.03 ** (1 / length)),
}
"""Without an end of their own: over-stepped they show it, under-stepped they are just mild."""

KINDS = list(sized(STEPS))


@pytest.mark.parametrize("kind", [*KINDS, *ENDLESS])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("own", [False, True], ids=["textbook loop", "own step"])
def test_a_schedule_sized_in_its_own_unit_is_silent(make_bench: MakeBench, kind: str, interval: str, own: bool) -> None:
    length = STEPS if interval == "step" else EPOCHS
    build = ENDLESS[kind](length) if kind in ENDLESS else sized(length)[kind]
    step = own_step(calls=int(interval == "step")) if own else None

    result = outcome(make_bench, setup(build, interval, own=step))

    assert not result.findings, result.findings
    assert not result.not_checked
    assert result.measurements["calls"] == length


@pytest.mark.parametrize("kind", [*KINDS, *ENDLESS])
@pytest.mark.parametrize("own", [False, True], ids=["textbook loop", "own step"])
def test_a_schedule_sized_in_epochs_and_stepped_per_batch(make_bench: MakeBench, kind: str, own: bool) -> None:
    build = ENDLESS[kind](EPOCHS) if kind in ENDLESS else sized(EPOCHS)[kind]

    result = outcome(make_bench, setup(build, "step", own=own_step() if own else None))

    # Restarts are meant by whoever writes them, so cycles shorter than an epoch are only strange.
    found = only(result, "SC0505", "warn" if kind == "CosineAnnealingWarmRestarts" else "fail")
    assert (found.evidence["unit"], found.evidence["count"], found.evidence["calls"]) == ("epochs", EPOCHS, STEPS)
    assert found.evidence["ratio"] == "22"
    assert not own or found.source is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_sized_in_steps_and_stepped_per_epoch(make_bench: MakeBench, kind: str) -> None:
    result = outcome(make_bench, setup(sized(STEPS)[kind], "epoch"))

    # 44 steps of StepLR may also be 44 epochs of a longer run, though they are whole epochs of this one.
    found = only(result, "SC0505", "warn" if kind == "StepLR halving" else "fail")
    assert (found.evidence["unit"], found.evidence["count"], found.evidence["calls"]) == (
        "optimizer steps",
        STEPS,
        EPOCHS,
    )
    assert "rarely" in found.message


def test_the_corrected_number_is_the_one_that_is_silent(make_bench: MakeBench) -> None:
    wrong = outcome(make_bench, setup(lambda o: schedulers.StepLR(o, 5)))
    right = outcome(make_bench, setup(lambda o: schedulers.StepLR(o, 110)))

    assert "step_size=110" in only(wrong, "SC0505").fix
    assert not right.findings


@pytest.mark.parametrize("length", [60, 240])
def test_accumulation_left_out_of_the_length_or_of_the_stepping(make_bench: MakeBench, length: int) -> None:
    """10 epochs of 24 batches are 240 batches, and with 4 of them to a step 60 steps."""
    plan = {"max_epochs": 10, "accumulate_steps": 4, "batches": 24}
    build: Build = lambda o: schedulers.CosineAnnealingLR(o, length)  # noqa: E731

    textbook = outcome(make_bench, setup(build, **plan))
    per_step = outcome(make_bench, setup(build, own=own_step(accumulate=4), **plan))
    per_batch = outcome(make_bench, setup(build, own=own_step(accumulate=4, every_batch=True), **plan))

    if length == 60:
        assert not textbook.findings
        assert not per_step.findings
        assert only(per_batch, "SC0505").evidence["ratio"] == "4"
    else:
        assert only(textbook, "SC0505").evidence["unit"] == "batches"
        assert only(per_step, "SC0505").evidence["ratio"] == "4"
        assert not per_batch.findings


def test_called_twice_in_each_step(make_bench: MakeBench) -> None:
    short = outcome(make_bench, setup(lambda o: schedulers.CosineAnnealingLR(o, STEPS), own=own_step(calls=2)))
    endless = outcome(make_bench, setup(lambda o: schedulers.ExponentialLR(o, 0.995), own=own_step(calls=2)))
    meant = outcome(make_bench, setup(lambda o: schedulers.CosineAnnealingLR(o, 2 * STEPS), own=own_step(calls=2)))

    assert only(short, "SC0505").evidence["ratio"] == "2"
    assert "2 times per optimizer step" in only(endless, "SC0511", "warn").message
    assert not meant.findings


def half_cosine(step: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def rising(warmup: float, decay: Callable[[int], float]) -> Build:
    """A warm-up that is multiplied with a decay."""
    return lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, (step + 1) / warmup) * decay(step))


def noam(warmup: float) -> Callable[[int], float]:
    """Vaswani et al. 2017, equation 3, without the width."""
    return lambda step: min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)


def warm_cosine(length: int) -> Build:
    """A warm-up of 40 calls and a cosine of `length` after it."""
    return lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.05, 1.0, 40), schedulers.CosineAnnealingLR(o, length)], [40]
    )


def begun(calls: int) -> Build:
    """A cosine over the run that has been stepped before it."""

    def build(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = schedulers.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(calls):
            optimizer.step()
            scheduler.step()
        return scheduler

    return build


SILENT: dict[str, Callable[[], dict[str, Any]]] = {
    "constant": setup(lambda o: schedulers.LambdaLR(o, lambda _: 1.0)),
    "ConstantLR that does nothing": setup(lambda o: schedulers.ConstantLR(o, 1.0)),
    "warm-up and nothing else": setup(lambda o: schedulers.LinearLR(o, 0.01, total_iters=20)),
    "warm-up of a third": setup(lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 66))),
    "cosine a tenth too long": setup(lambda o: schedulers.CosineAnnealingLR(o, 242)),
    "cosine a tenth too short": setup(lambda o: schedulers.CosineAnnealingLR(o, 198)),
    "warm-up counted twice": setup(
        lambda o: schedulers.SequentialLR(
            o, [schedulers.LinearLR(o, 0.01, total_iters=20), schedulers.CosineAnnealingLR(o, STEPS)], [20]
        )
    ),
    "restarts": setup(lambda o: schedulers.CosineAnnealingWarmRestarts(o, 30, 2), batches=9, max_steps=210),
    "restarts cut off": setup(lambda o: schedulers.CosineAnnealingWarmRestarts(o, 30, 2), batches=9, max_steps=130),
    "restarts in epochs of the same number": setup(
        lambda o: schedulers.LambdaLR(o, lambda s: 0.5 * (1 + math.cos(math.pi * (s / 100 % 1)))), batches=10, max_epochs=100
    ),
    "restarts by hand": setup(
        lambda o: schedulers.SequentialLR(
            o, [schedulers.CosineAnnealingLR(o, 110), schedulers.CosineAnnealingLR(o, 110)], [110]
        )
    ),
    "restarts by fractions of an epoch": setup(
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 10), own=own_step(arguments=lambda count: (count / BATCHES,))
    ),
    "cyclic": setup(lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=20)),
    "cyclic and falling": setup(lambda o: schedulers.CyclicLR(o, 0.001, 0.1, step_size_up=20, mode="triangular2")),
    "triangles": setup(lambda o: schedulers.LambdaLR(o, lambda step: abs(step / 22 % 2 - 1))),
    "second warm-up": setup(
        lambda o: schedulers.LambdaLR(o, lambda s: 1 - s / 110 if s < 110 else min(1, (s - 109) / 11) * (STEPS - s) / 110)
    ),
    "inverse root": setup(lambda o: schedulers.LambdaLR(o, lambda s: min((s + 1) / 20, (20 / (s + 1)) ** 0.5))),
    "Noam": setup(lambda o: schedulers.LambdaLR(o, lambda s: 0.1 * min((s + 1) ** -0.5, (s + 1) * 40**-1.5)), lr=1.0),
    "Noam by the root of the width": setup(lambda o: schedulers.LambdaLR(o, noam(40)), lr=512**-0.5),
    "Noam with a warm-up that ends between two steps": setup(lambda o: schedulers.LambdaLR(o, noam(40.5)), lr=512**-0.5),
    "Noam that goes on": setup(
        lambda o: schedulers.LambdaLR(o, lambda s: noam(1000)(s + 900)), lr=512**-0.5),
    "warm-up under a cosine": setup(rising(20, half_cosine), lr=3e-4),
    "warm-up of a third under a cosine": setup(rising(STEPS / 3, half_cosine), lr=3e-4),
    "warm-up of a third under a fall to a hundredth": setup(rising(STEPS / 6, lambda s: 0.01 ** (s / STEPS)), lr=3e-4),
    "rates instead of factors": setup(rising(STEPS / 2, lambda s: 1e-3 * half_cosine(s)), lr=1.0),
    "waves": setup(lambda o: schedulers.LambdaLR(o, lambda s: 0.2 + 0.1 * math.sin(s / 9)), lr=3e-4),
    "a tenth of the rate": setup(lambda o: schedulers.LambdaLR(o, lambda s: 0.1 * linear(20, STEPS)(s)), lr=3e-4),
    "decay that lies beyond the run": setup(lambda o: schedulers.LambdaLR(o, stable(20, 1800, 2200))),
    "milestones that lie beyond the run": setup(lambda o: schedulers.MultiStepLR(o, [5, 8, 30]), "epoch"),
    "only milestones beyond the run": setup(lambda o: schedulers.StepLR(o, 30), "epoch", max_epochs=20),
    "mild exponential": setup(lambda o: schedulers.ExponentialLR(o, 0.995), "epoch", max_epochs=20),
    "long exponential": setup(lambda o: schedulers.ExponentialLR(o, 0.95), "epoch", max_epochs=200, batches=3),
    "plateau": setup(lambda o: schedulers.ReduceLROnPlateau(o, patience=2), "epoch", max_epochs=30),
    "groups": setup(lambda o: schedulers.LambdaLR(o, linear(20, STEPS)), groups=[0.1, 0.01, 0.0]),
    "unfreezing": setup(lambda o: schedulers.LambdaLR(o, [lambda e: float(e >= 5), lambda _: 1.0]), "epoch", groups=[0.1, 0.01]),
    "one group ends early": setup(
        lambda o: schedulers.LambdaLR(o, [lambda e: max(0.0, 1 - e / 3), lambda _: 1.0]), "epoch", groups=[0.1, 0.01]
    ),
    "timm by epoch": setup(lambda o: Timm(o, EPOCHS, True), "epoch"),
    "timm by update": setup(lambda o: Timm(o, STEPS, False)),
    "one epoch": setup(lambda o: schedulers.CosineAnnealingLR(o, 1), "epoch", max_epochs=1),
    "two epochs": setup(lambda o: schedulers.CosineAnnealingLR(o, 2), "epoch", max_epochs=2),
    "five steps": setup(lambda o: schedulers.LambdaLR(o, linear(1, 5)), max_steps=5),
    "a critic's five steps to one": setup(
        lambda o: schedulers.CosineAnnealingLR(o, 50), own=own_step(accumulate=5), max_steps=250
    ),
    "an epoch counted inside the step": setup(lambda o: schedulers.StepLR(o, 5), "epoch", own=own_step(accumulate=22)),
    "by hand": setup(None, None, own=own_step(calls=0, rate=lambda s: 0.1 * cosine(20, STEPS)(s + 1))),
    "five half-cosines": setup(lambda o: schedulers.CosineAnnealingLR(o, STEPS // 5)),
    "three half-cosines after a warm-up": setup(warm_cosine((STEPS - 40) // 3)),
    "three half-cosines of the wrong length by a rounding": setup(lambda o: schedulers.CosineAnnealingLR(o, STEPS / 3)),
    "half-cosines above a high floor": setup(lambda o: schedulers.CosineAnnealingLR(o, STEPS // 5, eta_min=0.03)),
    "factor of five": setup(lambda o: schedulers.LambdaLR(o, lambda s: 1 + 4 * min(1, s / 50))),
    "begun by one call": setup(begun(1)),
    "warm-up from zero": setup(lambda o: schedulers.LambdaLR(o, lambda s: min(1.0, s / 30))),
    "warm-up of two steps from zero": setup(lambda o: schedulers.LambdaLR(o, lambda s: min(1.0, s / 2))),
    "zero until the statistics of BatchNorm are there, and then slowly": setup(
        lambda o: schedulers.LambdaLR(o, lambda s: min(1.0, max(0, s - 10) / 30))
    ),
    "cycles of two epochs": setup(lambda o: waves(22, "triangular")(o)),
    "cycles that halve": setup(lambda o: waves(22, "triangular2")(o)),
    "cycles that fade slowly": setup(lambda o: waves(22, "exp_range", 0.99)(o)),
    "short cycles": setup(lambda o: waves(3, "triangular")(o)),
    "cycles by epoch that halve": setup(lambda o: waves(2, "triangular2")(o), "epoch", max_epochs=20),
    "scheduler not given": setup(sized(STEPS)["CosineAnnealingLR"], None, own=own_step(), given=False),
}  # fmt: skip


@pytest.mark.parametrize("function", SILENT.values(), ids=SILENT.keys())
def test_healthy_schedules_are_silent(make_bench: MakeBench, function: Callable[[], dict[str, Any]]) -> None:
    result = outcome(make_bench, function)

    assert not result.findings, result.findings
    measured = result.measurements
    assert len(measured["steps"]) == len(measured["rates"][0]) <= 200
    assert measured["peak"] == pytest.approx(max(max(curve) for curve in measured["rates"]), rel=1e-6)


def by_constant(factor: float) -> Build:
    return lambda o: schedulers.LambdaLR(o, lambda step: max(0.0, 1 - step / factor))


def waves(up: int, mode: Any, gamma: float = 1.0) -> Build:
    return lambda o: schedulers.CyclicLR(o, 0.002, 0.1, step_size_up=up, mode=mode, gamma=gamma, cycle_momentum=False)


FAULTY: dict[str, tuple[str, str, Callable[[], dict[str, Any]]]] = {
    "OneCycleLR too short": ("SC0503", "fail", setup(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=200))),
    "function raises": ("SC0503", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda step: 1 / (100 - step)))),
    "negative": ("SC0504", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda step: 1 - step / 150))),
    "nan": ("SC0504", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda step: math.nan if step > 100 else 1.0))),
    "infinite at first": ("SC0504", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda s: s**-0.5 if s else math.inf))),
    "half the length": ("SC0506", "fail", setup(by_constant(STEPS / 2))),
    "three quarters of the length": ("SC0506", "warn", setup(by_constant(0.75 * STEPS))),
    "product for a factor": (
        "SC0506", "fail", setup(lambda o: schedulers.MultiplicativeLR(o, lambda e: 0.95**e), "epoch", max_epochs=50)
    ),
    "cosine half the length": ("SC0507", "fail", setup(lambda o: schedulers.CosineAnnealingLR(o, STEPS // 2))),
    "cosine two thirds of the length": ("SC0507", "warn", setup(lambda o: schedulers.CosineAnnealingLR(o, STEPS * 2 // 3))),
    "Hugging Face cosine half the length": ("SC0507", "fail", setup(lambda o: schedulers.LambdaLR(o, cosine(10, STEPS // 2)))),
    "warm-up, then cosine a third of the length": ("SC0507", "fail", setup(warm_cosine(62))),
    "cosine a third of the length": ("SC0507", "fail", setup(lambda o: schedulers.CosineAnnealingLR(o, 69))),
    "Noam's formula with the lr of Adam": (
        "SC0518", "warn", setup(lambda o: schedulers.LambdaLR(o, lambda s: noam(100)(s) / 32), lr=1e-3)),
    "Noam's formula the wrong way up": ("SC0518", "warn", setup(lambda o: schedulers.LambdaLR(o, lambda s: 20 * noam(60)(s) * 60))),
    "warm-up by integer division": ("SC0520", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda s: min(1, s // 30)))),
    "begun long before": ("SC0519", "fail", setup(begun(STEPS // 3))),
    "eta_min above the rate": ("SC0513", "fail", setup(lambda o: schedulers.CosineAnnealingLR(o, STEPS, eta_min=0.5))),
    "warm-up longer than the run": ("SC0508", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 1000)))),
    "CyclicLR with its default": ("SC0508", "fail", setup(lambda o: schedulers.CyclicLR(o, 0.001, 0.1))),
    "ConstantLR with its default": ("SC0508", "fail", setup(schedulers.ConstantLR, "epoch", max_epochs=3)),
    "warm-up of hundred runs under a cosine": ("SC0517", "fail", setup(rising(20_000, half_cosine), lr=3e-4)),
    "warm-up of hundred runs under a line": ("SC0517", "fail", setup(rising(20_000, lambda s: 1 - s / STEPS), lr=3e-4)),
    "warm-up of hundred runs under milestones": ("SC0517", "fail", setup(rising(20_000, lambda s: 0.5 ** (s // 50)), lr=3e-4)),
    "warm-up in steps under a cosine, by epochs": (
        "SC0517", "fail", setup(rising(1000, lambda e: half_cosine(e * STEPS / 60)), "epoch", lr=3e-4, max_epochs=60)),
    "warm-up of one run under a decay": ("SC0517", "warn", setup(rising(STEPS, lambda s: 0.99**s))),
    "warm-up of hundred runs, chained": (
        "SC0517", "fail", setup(lambda o: schedulers.ChainedScheduler(
            [schedulers.LinearLR(o, 1e-3, total_iters=20_000), schedulers.CosineAnnealingLR(o, STEPS)]))),
    "OneCycleLR that never comes down": ("SC0509", "warn", setup(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=2 * STEPS))),
    "cosine three times the length": ("SC0509", "warn", setup(lambda o: schedulers.CosineAnnealingLR(o, 3 * STEPS))),
    "rate for a factor": (
        "SC0510", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda s: 0.001 * linear(20, STEPS)(s)), lr=0.001)),
    "rate for a factor, without a corner": (
        "SC0510", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda s: 0.001 * math.sin(math.pi * s / STEPS)), lr=0.001)),
    "declared by epoch, stepped by batch": ("SC0511", "warn", setup(sized(STEPS)["PolynomialLR"], "epoch", own=own_step())),
    "gamma above one": ("SC0513", "fail", setup(lambda o: schedulers.ExponentialLR(o, 1.05))),
    "gamma of ten": ("SC0513", "fail", setup(lambda o: schedulers.StepLR(o, 4, 10.0), "epoch")),
    "the epoch for a factor": ("SC0513", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda epoch: epoch), "epoch")),
    "zero": ("SC0514", "fail", setup(lambda o: schedulers.LambdaLR(o, lambda step: 1 // (step + 2)))),
    "zero without a scheduler": ("SC0514", "fail", setup(None, None, lr=0.0)),
    "zero in one group": (
        "SC0514", "warn", setup(lambda o: schedulers.LambdaLR(o, [lambda _: 1.0, lambda _: 0.0]), groups=[0.1, 0.01])),
    "halving cycles of three epochs, in batches": ("SC0522", "fail", setup(waves(3, "triangular2"))),
    "a cycle that fades at each batch": ("SC0522", "warn", setup(waves(22, "exp_range", 0.9))),
    "patience in batches": ("SC0515", "warn", setup(lambda o: schedulers.ReduceLROnPlateau(o, patience=3))),
    "negative by hand": (
        "SC0504", "fail", setup(None, None, own=own_step(calls=0, rate=lambda step: 0.1 * (1 - step / 150)))),
    "spent by hand": ("SC0506", "fail", setup(None, None, own=own_step(calls=0, rate=lambda step: 0.1 * 0.5**step))),
}  # fmt: skip


@pytest.mark.parametrize(("code", "severity", "function"), FAULTY.values(), ids=FAULTY.keys())
def test_faulty_schedules_are_found(
    make_bench: MakeBench, code: str, severity: str, function: Callable[[], dict[str, Any]]
) -> None:
    found = only(outcome(make_bench, function), code, severity)

    assert found.message
    assert found.fix


def test_numbers_in_the_findings(make_bench: MakeBench) -> None:
    raises = only(outcome(make_bench, FAULTY["OneCycleLR too short"][2]), "SC0503")
    negative = only(outcome(make_bench, FAULTY["negative"][2]), "SC0504")
    warmup = only(outcome(make_bench, FAULTY["warm-up longer than the run"][2]), "SC0508")
    growing = only(outcome(make_bench, FAULTY["gamma above one"][2]), "SC0513")
    drowned = only(outcome(make_bench, FAULTY["warm-up of hundred runs under a line"][2]), "SC0517")
    cosine = only(outcome(make_bench, FAULTY["cosine three times the length"][2]), "SC0509", "warn")

    assert raises.evidence["call"] == 201
    assert "total_steps=220" in raises.fix
    assert negative.evidence["call"] == 151
    assert negative.evidence["rate"] == pytest.approx(0.1 * (1 - 151 / 150))
    assert warmup.evidence["needs"] == 1000
    assert warmup.evidence["reached"] == pytest.approx((STEPS - 1) / 1000)
    assert growing.evidence["factor"] == pytest.approx(1.05 ** (STEPS - 1))
    assert drowned.evidence["share"] == pytest.approx(max((s + 1) / 20_000 * (1 - s / STEPS) for s in range(STEPS)))
    assert drowned.evidence["call"] in {109, 110}
    assert cosine.evidence["last"] == pytest.approx(0.5 * (1 + math.cos(math.pi * (STEPS - 1) / (3 * STEPS))))
    assert "T_max=220" in cosine.fix


def test_the_group_is_the_place(make_bench: MakeBench) -> None:
    build: Build = lambda o: schedulers.LambdaLR(o, [lambda _: 1.0, lambda step: 1 - step / 150])  # noqa: E731

    bench = make_bench(setup(build, groups=[0.1, 0.01]))
    (found,) = judge(CHECK, bench, contained=False).result.findings

    assert found.location == "group 1"
    assert found.evidence["rate"] == pytest.approx(0.01 * (1 - 151 / 150))
    assert found.source is not None


def test_a_scheduler_of_another_optimizer(make_bench: MakeBench) -> None:
    def stranger(optimizer: torch.optim.Optimizer) -> Any:
        copy = torch.optim.Adam([p for group in optimizer.param_groups for p in group["params"]], lr=0.1)
        return schedulers.CosineAnnealingLR(copy, STEPS)

    class Wrapper:
        """As accelerate's: not the optimizer itself, but with its groups."""

        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner = inner

        @property
        def param_groups(self) -> list[dict[str, Any]]:
            return self.inner.param_groups

        def step(self) -> None:
            self.inner.step()

    def wrapped() -> dict[str, Any]:
        result = setup(sized(STEPS)["CosineAnnealingLR"])()
        return {**result, "optimizer": Wrapper(result["optimizer"])}

    found = only(outcome(make_bench, setup(stranger)), "SC0501")

    assert found.evidence["other"] == "Adam"
    assert not outcome(make_bench, wrapped).findings


@pytest.mark.parametrize("accumulate", [1, 30])
def test_a_scheduler_that_train_step_never_steps(make_bench: MakeBench, accumulate: int) -> None:
    step = own_step(calls=0, accumulate=accumulate)
    keys = {"max_steps": STEPS, "accumulate_steps": accumulate}

    result = outcome(make_bench, setup(sized(STEPS)["CosineAnnealingLR"], own=step, **keys))
    rare = outcome(make_bench, setup(sized(STEPS)["CosineAnnealingLR"], own=own_step(accumulate=accumulate), **keys))

    found = only(result, "SC0502")
    assert found.source is not None
    assert found.evidence["rate"] == pytest.approx(0.1)
    assert not rare.findings


def test_a_rate_that_is_overwritten(make_bench: MakeBench) -> None:
    def in_the_step(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> Callable[[Any], Any]:
        inner = own_step()(model, optimizer, scheduler)

        def train_step(batch: Any) -> Any:
            loss = inner(batch)
            optimizer.param_groups[0]["lr"] = 0.1
            return loss

        return train_step

    def after_building(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = schedulers.LambdaLR(optimizer, linear(0, STEPS))
        optimizer.param_groups[0]["lr"] = 1e-4
        return scheduler

    step = only(outcome(make_bench, setup(sized(STEPS)["CosineAnnealingLR"], own=in_the_step)), "SC0512", "warn")
    building = only(outcome(make_bench, setup(after_building)), "SC0512", "warn")

    assert step.source is not None
    assert building.evidence["before"] == pytest.approx(1e-4)


def test_a_group_that_the_scheduler_does_not_know(make_bench: MakeBench) -> None:
    def build(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = schedulers.LambdaLR(optimizer, linear(1, STEPS))
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
        return scheduler

    found = only(outcome(make_bench, setup(build)), "SC0503")

    assert "2 parameter groups, the scheduler knows 1" in found.fix


def test_the_last_calls_of_a_run_with_a_remainder_only_warn(make_bench: MakeBench) -> None:
    """10 x 22 batches in fours: 55 or 60 steps, by whether the last two of an epoch make one."""
    function = setup(lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=55), max_epochs=10, accumulate_steps=4)

    only(outcome(make_bench, function), "SC0503", "warn")


def test_without_an_interval_the_reading_that_makes_sense_is_taken(make_bench: MakeBench) -> None:
    by_step = outcome(make_bench, setup(sized(STEPS)["CosineAnnealingLR"], None))
    by_epoch = outcome(make_bench, setup(sized(EPOCHS)["StepLR"], None))
    own = outcome(make_bench, setup(sized(EPOCHS)["StepLR"], None, own=own_step(calls=0)))
    seen = outcome(make_bench, setup(sized(EPOCHS)["StepLR"], None, own=own_step()))

    for result, calls in ((by_step, STEPS), (by_epoch, EPOCHS), (own, EPOCHS)):
        assert not result.findings
        assert result.measurements["calls"] == calls
        assert "add 'scheduler_interval'" in result.not_checked[0].why
    only(seen, "SC0505")
    assert not seen.not_checked


def test_without_a_length_nothing_is_said_about_it(make_bench: MakeBench) -> None:
    result = outcome(make_bench, _without_plan())

    assert not result.findings
    assert result.measurements["planned_steps"] is None
    assert len(result.measurements["steps"]) > 1
    assert "'max_steps'" in result.not_checked[0].why


def _without_plan() -> Callable[[], dict[str, Any]]:
    function = setup(sized(EPOCHS)["StepLR"])
    return lambda: {**function(), "max_epochs": None}


def test_a_loader_without_a_length(make_bench: MakeBench) -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(setup(None)()["train_loader"])

    def stream(build: Build, interval: str, **keys: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {**setup(build, interval, **keys)(), "train_loader": Stream()}

    known = outcome(make_bench, stream(sized(100)["CosineAnnealingLR"], "step", max_steps=100))
    epochs = outcome(make_bench, stream(sized(EPOCHS)["CosineAnnealingLR"], "epoch", max_epochs=EPOCHS))
    unknown = outcome(make_bench, stream(sized(100)["CosineAnnealingLR"], "step", max_epochs=EPOCHS))

    assert not known.findings
    assert not known.not_checked
    assert not epochs.findings
    assert epochs.measurements["unit"] == "epoch"
    assert not unknown.findings
    assert unknown.not_checked


def test_without_a_scheduler_there_is_nothing_to_check(make_bench: MakeBench) -> None:
    with pytest.raises(Skip, match=r"the rate stays at 0\.1; .*add 'scheduler'"):
        CHECK.run(make_bench(setup(None, None)))
    with pytest.raises(Skip, match="one was built for this optimizer"):
        CHECK.run(make_bench(setup(sized(STEPS)["CosineAnnealingLR"], None, given=False)))
    with pytest.raises(Skip, match="add 'optimizer' and 'scheduler'"):
        CHECK.run(make_bench(lambda: {**setup(None, None)(), "optimizer": None}))


def test_a_rate_set_by_hand_is_followed_for_as_long_as_there_is_time(make_bench: MakeBench) -> None:
    function = setup(None, None, own=own_step(calls=0, rate=lambda s: 0.1 * linear(20, STEPS)(s)))

    whole = outcome(make_bench, function)
    part = outcome(
        make_bench,
        setup(None, None, own=own_step(calls=0, rate=linear(20, 10**7)), max_steps=10**7),
        deadline=time.monotonic() + 0.5,
    )

    assert whole.measurements["planned_steps"] == STEPS
    assert whole.measurements["peak_steps"] == [20] * len(whole.measurements["groups"])
    assert whole.measurements["final"][0] == pytest.approx(0.1 / 200, rel=1e-6)
    assert not whole.not_checked
    assert "steps were made" in part.not_checked[0].why
    assert not part.findings


@pytest.mark.parametrize("epochs", [2, 10, 150])
def test_measurements_for_the_plot(make_bench: MakeBench, epochs: int) -> None:
    build = sized(epochs)["CosineAnnealingLR"]

    measured = outcome(make_bench, setup(build, "epoch", groups=[0.1, 0.02], max_epochs=epochs)).measurements

    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
    assert measured["planned_steps"] == epochs * BATCHES
    assert measured["peaks"] == pytest.approx([0.1, 0.02])
    assert measured["first"] == pytest.approx([0.1, 0.02])
    assert measured["final"] == pytest.approx([expected[-1], expected[-1] / 5], rel=1e-6)
    assert measured["trial_rate_share"] == pytest.approx(1.0)
    for step, rate in zip(measured["steps"], measured["rates"][0], strict=True):
        assert rate == pytest.approx(expected[step // BATCHES], rel=1e-5)
    if epochs <= 100:
        assert measured["steps"][-1] == epochs * BATCHES - 1


def test_many_groups_are_drawn_once_for_each_shape(make_bench: MakeBench) -> None:
    def function() -> dict[str, Any]:
        result = setup(None)()
        parameters = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1 * 0.9**i} for i in range(40)]
        optimizer = torch.optim.SGD(parameters)
        functions = [linear(20, STEPS) if i % 2 else cosine(20, STEPS) for i in range(40)]
        return {**result, "optimizer": optimizer, "scheduler": schedulers.LambdaLR(optimizer, functions)}

    measured = outcome(make_bench, function).measurements

    assert measured["groups"] == [0, 1]
    assert len(measured["rates"]) == 2
    assert len(measured["peaks"]) == 40


@pytest.mark.parametrize(("step_size", "expected"), [(600, ["SC0516"]), (40, [])])
def test_a_first_milestone_long_after_the_run_never_acts(make_bench: Any, step_size: int, expected: list[str]) -> None:
    """Up to a few run lengths it may be a run that was shortened; twenty away the unit is wrong."""

    def setup() -> dict[str, Any]:
        made = classifier()()
        scheduler = torch.optim.lr_scheduler.StepLR(made["optimizer"], step_size)
        return {**made, "max_steps": None, "max_epochs": 30, "scheduler": scheduler, "scheduler_interval": "epoch"}

    assert [f.code for f in CHECK.run(make_bench(setup)).findings] == expected
