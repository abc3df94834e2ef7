from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stabcheck.check import Skip
from stabcheck.diagnoses.dying_relu import CHECK, dead_share
from stabcheck.trial.recorder import record_trial
from tests.diagnoses.recordings import flat, parameter, recording, rectifier, steps
from tests.setups import classifier, mlp

STALLED = steps(flat())


def codes(made: Any) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in CHECK.run(made).findings]


def test_a_layer_that_never_fires_is_born_dead() -> None:
    assert codes(recording(rectifiers=(rectifier(dead=0.97),), steps=STALLED)) == [("SC0901", "fail")]


def test_a_layer_that_stops_firing_was_killed() -> None:
    assert codes(recording(rectifiers=(rectifier(dead=0.97, dead_at_start=0.1),), steps=STALLED)) == [
        ("SC0902", "fail")
    ]


def test_between_the_thresholds_it_is_a_warning() -> None:
    assert codes(recording(rectifiers=(rectifier(dead=0.8),), steps=STALLED)) == [("SC0903", "warn")]


@pytest.mark.parametrize(
    "harmless",
    [
        {"rectifiers": (rectifier(dead=0.7),), "steps": STALLED},
        {"rectifiers": (rectifier(dead=0.97),)},
        {"rectifiers": (rectifier(dead=1.0, bypassed=True),), "steps": STALLED},
        {"rectifiers": (rectifier(dead=1.0),), "steps": STALLED, "parameters": (parameter(constant_at_start=True),)},
    ],
    ids=["few", "it learns", "bypassed", "equal weights are the fault"],
)
def test_harmless(harmless: dict[str, Any]) -> None:
    assert codes(recording(**harmless)) == []


def test_a_narrow_layer_is_not_judged() -> None:
    with pytest.raises(Skip, match="8 units"):
        CHECK.run(recording(rectifiers=(rectifier(dead=1.0, units=4),), steps=STALLED))


def test_the_first_dead_layer_is_the_one_reported() -> None:
    made = recording(
        rectifiers=(rectifier("1", dead=0.1), rectifier("3", dead=0.99), rectifier("5", dead=1.0)), steps=STALLED
    )

    assert [f.location for f in CHECK.run(made).findings] == ["3"]


def test_a_unit_that_fired_early_only_is_dead_at_the_end() -> None:
    made = rectifier(dead=0.5, dead_at_start=0.0)

    assert dead_share(made, 39, 10) == 0.5
    assert dead_share(made, 39, 40) == 0.0


def test_in_a_few_steps_no_silent_unit_is_acquitted() -> None:
    few = {
        "observed": (0, 1),
        "units": 100,
        "first_fired": (-1,) * 30 + (0,) * 70,
        "last_fired": (-1,) * 30 + (1,) * 70,
    }
    with pytest.raises(Skip, match="2 steps are too few to tell whether units that are silent stay so"):
        CHECK.run(recording(rectifiers=(rectifier(**few),), steps=steps([2.3, 0.3])))


def test_without_rectifiers_it_does_not_apply() -> None:
    with pytest.raises(Skip, match="no ReLU"):
        CHECK.run(recording(rectifiers=()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("bias", "expected"), [(-100.0, [("SC0901", "fail")]), (-1.0, [])])
def test_bias_far_below_zero(make_bench: Any, seed: int, bias: float, expected: list[tuple[str, str]]) -> None:
    def model() -> nn.Module:
        network = mlp()
        nn.init.constant_(network[2].bias, bias)
        return network

    assert codes(record_trial(make_bench(classifier(model), seed=seed), steps=40)) == expected


@pytest.mark.parametrize("seed", range(4))
def test_one_huge_update_kills(make_bench: Any, seed: int) -> None:
    made = record_trial(make_bench(classifier(lr=200.0, optimizer=torch.optim.Adam), seed=seed), steps=40)
    found = codes(made)

    assert not found or found[0][0] == "SC0902", "a network that dies in training was killed, not born dead"
