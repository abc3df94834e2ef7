from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stabcheck.check import Outcome
from stabcheck.experiments.loss_contract import CHECK
from tests.experiments import loss_cases as cases

MakeBench = Callable[..., Any]

FAULTY = [(code, setup) for code, setups in cases.FAULTY.items() for setup in setups]
WARNED = [(code, setup) for code, setups in cases.WARNED.items() for setup in setups]


def judge(make_bench: MakeBench, setup: cases.Setup, seed: int = 0) -> Outcome:
    outcome: Outcome = CHECK.run(make_bench(setup, seed=seed))
    return outcome


def found(outcome: Outcome) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in outcome.findings]


@pytest.mark.parametrize(("code", "setup"), FAULTY, ids=[f"{c}-{i}" for i, (c, _) in enumerate(FAULTY)])
def test_fault_is_found_and_nothing_else(code: str, setup: cases.Setup, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert found(judge(make_bench, setup, seed)) == [(code, "fail")]


@pytest.mark.parametrize(("code", "setup"), WARNED, ids=[f"{c}-{i}" for i, (c, _) in enumerate(WARNED)])
def test_doubtful_loss_is_warned_of(code: str, setup: cases.Setup, make_bench: MakeBench) -> None:
    assert found(judge(make_bench, setup)) == [(code, "warn")]


@pytest.mark.parametrize("name", cases.HEALTHY)
def test_healthy_loss_is_left_alone(name: str, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert found(judge(make_bench, cases.HEALTHY[name], seed)) == []
