"""Each rule of data-health fires on its fault and on nothing that is near to it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from stabcheck.check import Outcome
from stabcheck.experiments.data_health import CHECK
from stabcheck.report import plain
from stabcheck.trial.bench import Bench
from tests.experiments.data_cases import FAULTY, HEALTHY, inputs_and_targets_in_thousands

MakeBench = Callable[..., Bench]


def check(make_bench: MakeBench, function: Callable[[int], dict[str, object]], seed: int = 0) -> Outcome:
    def entry() -> dict[str, object]:
        torch.manual_seed(seed)
        return function(seed)

    outcome = CHECK.run(make_bench(entry, seed=seed))
    json.dumps(plain([outcome.measurements, *(finding.evidence for finding in outcome.findings)]), allow_nan=False)
    return outcome


def found(outcome: Outcome) -> dict[str, str]:
    return {finding.code: finding.severity for finding in outcome.findings}


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_named_and_nothing_else(make_bench: MakeBench, name: str) -> None:
    code, severity, function = FAULTY[name]
    assert found(check(make_bench, function)) == {code: severity}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_near_to_a_fault_is_sound(make_bench: MakeBench, name: str) -> None:
    assert found(check(make_bench, HEALTHY[name])) == {}


def test_inputs_and_targets_that_wait_for_each_other_are_both_named(make_bench: MakeBench) -> None:
    outcome = check(make_bench, inputs_and_targets_in_thousands)

    assert found(outcome) == {"SC1708": "fail", "SC1709": "fail"}
    assert all("both inputs and targets standardised" in finding.message for finding in outcome.findings)
