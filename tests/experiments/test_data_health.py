"""Each rule of data-health fires on its fault and on nothing that is near to it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from stabcheck.check import Outcome
from stabcheck.experiments import data_health
from stabcheck.experiments.data_health import CHECK
from stabcheck.report import plain
from stabcheck.trial.bench import Bench
from stabcheck.trial.data import preprocessing, sample_order, scaling
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


def test_what_takes_too_long_is_said_and_not_judged(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time for more than the first few steps every experiment says so; none of them finds a fault."""
    for module, name in ((sample_order, "SECONDS"), (scaling, "SECONDS"), (preprocessing, "SECONDS")):
        monkeypatch.setattr(module, name, 0.0)
    said = {
        "SC1704": "what the order of the training data does",
        "SC1708": "what the scale of the inputs does",
        "SC1709": "what the scale of the targets does",
    }
    for code, what in said.items():
        function = next(case for found_code, _, case in FAULTY.values() if found_code == code)
        outcome = check(make_bench, function)

        assert found(outcome) == {}
        assert any(item.what == what and "too" in item.why for item in outcome.not_checked), outcome.not_checked


def test_a_pass_that_is_broken_off_is_said(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_health, "SCAN_SECONDS", 0.0)

    outcome = check(make_bench, next(iter(HEALTHY.values())))

    assert any(item.what.startswith("train_loader beyond its first") for item in outcome.not_checked)


def test_inputs_and_targets_that_wait_for_each_other_are_both_named(make_bench: MakeBench) -> None:
    outcome = check(make_bench, inputs_and_targets_in_thousands)

    assert found(outcome) == {"SC1708": "fail", "SC1709": "fail"}
    assert all("both inputs and targets standardised" in finding.message for finding in outcome.findings)
