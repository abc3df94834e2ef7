"""What simulating a schedule costs: `Schedule` against the plain loop that calls the scheduler and reads the rates.

    python -m tests.benchmarks.schedule_speed

Prints for each scheduler the microseconds per call of the plain loop and of `Schedule`, in alternating rounds of one process,
the ratio, and the seconds that a million calls take. Both must give the same rates, to the last bit.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.optim import lr_scheduler as schedulers

from stabcheck.trial.schedule.cadence import CallForm
from stabcheck.trial.schedule.simulation import Schedule

CALLS, ROUNDS = 100_000, 3

Build = Callable[[torch.optim.Optimizer], Any]

BUILDS: dict[str, Build] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 1000) * max(0.0, 1 - step / CALLS)),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, CALLS),
    "StepLR": lambda o: schedulers.StepLR(o, 1000, 0.9),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=CALLS),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.01, total_iters=500), schedulers.CosineAnnealingLR(o, CALLS - 500)], [500]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.01, total_iters=500), schedulers.ExponentialLR(o, 0.9999)]
    ),
}


def optimizer(groups: int) -> torch.optim.Optimizer:
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1} for _ in range(groups)]
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def plain(build: Build, groups: int) -> tuple[float, array[float]]:
    target = optimizer(groups)
    scheduler = build(target)
    target.step()
    rates = array("d", [group["lr"] for group in target.param_groups])
    started = time.perf_counter()
    for _ in range(CALLS):
        scheduler.step()
        rates.extend([group["lr"] for group in target.param_groups])
    return time.perf_counter() - started, rates


def simulated(build: Build, groups: int) -> tuple[float, array[float]]:
    target = optimizer(groups)
    schedule = Schedule(build(target), target, CallForm(), seconds=1e9)
    started = time.perf_counter()
    curve = schedule.curve(CALLS)
    return time.perf_counter() - started, array("d", curve.rates.ravel())


def main() -> None:
    print(f"{'':18s} groups   plain  simulated  ratio  a million calls")
    for groups in (1, 4):
        for name, build in BUILDS.items():
            pairs = [(plain(build, groups), simulated(build, groups)) for _ in range(ROUNDS)]
            assert all(one[1] == other[1] for one, other in pairs), f"{name}: the rates differ"
            bare, ours = (median(pair[side][0] for pair in pairs) / CALLS * 1e6 for side in (0, 1))
            print(f"{name:18s} {groups:6d} {bare:7.2f} {ours:10.2f} {ours / bare:6.2f} {ours:14.1f} s")


if __name__ == "__main__":
    main()
