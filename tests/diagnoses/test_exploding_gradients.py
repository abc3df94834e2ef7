from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from stabcheck.check import Skip
from stabcheck.diagnoses.exploding_gradients import CHECK
from stabcheck.recording import OptimizerFacts, Yardsticks
from stabcheck.trial.recorder import record_trial
from tests.diagnoses.recordings import falling, recording, signal, steps
from tests.setups import classifier, mlp


def codes(made: Any) -> list[str]:
    return [f.code for f in CHECK.run(made).findings]


def test_a_loss_that_ends_far_above_a_constant_guess_diverged() -> None:
    assert codes(recording(steps=steps(falling(2.3, 9.0)))) == ["SC0802"]


def test_the_losses_of_two_players_without_a_level_of_their_own_may_rise() -> None:
    adam = OptimizerFacts("Adam", ({"lr": 1e-3},))
    game: Any = {"steps": steps(falling(0.7, 1.9)), "optimizers": (adam, adam)}

    outcome = CHECK.run(recording(**game, yardsticks=Yardsticks(None, None, None)))

    assert outcome.findings == ()
    assert next(what.what for what in outcome.not_checked) == "whether the loss diverges"
    assert codes(recording(**{**game, "optimizers": (adam,)}, yardsticks=Yardsticks(None, None, None))) == ["SC0802"]
    assert codes(recording(**game, yardsticks=Yardsticks(0.7, 0.7, 0.0))) == ["SC0802"]


def test_an_early_spike_that_settles_is_harmless() -> None:
    losses = falling()
    losses[3:8] = [40.0] * 5

    assert codes(recording(steps=steps(losses))) == []


def test_a_high_start_that_comes_down_is_harmless() -> None:
    assert codes(recording(steps=steps([5000.0 * 0.7**i for i in range(40)]))) == []


def test_a_hopeless_start_names_the_layer_where_activations_pass_a_hundredfold() -> None:
    signals = tuple(signal(str(i), rms=10.0**i) for i in range(6))
    (finding,) = CHECK.run(recording(steps=steps(falling(1e9, 1e7)), signals=signals)).findings

    assert (finding.code, finding.location) == ("SC0803", "3")


def test_what_started_hopeless_is_told_by_its_start_also_when_it_overflows_later() -> None:
    made = recording(steps=steps([1e7, 3e9, math.nan]), first_non_finite=("activation", "2", 2))
    (finding,) = CHECK.run(made).findings

    assert (finding.code, finding.evidence["steps"]) == ("SC0803", 3)


def test_scaling_the_loss_changes_nothing() -> None:
    for scale in (1e-9, 1.0, 1e9):
        made = recording(
            steps=steps([scale * loss for loss in falling(2.3, 9.0)]),
            yardsticks=Yardsticks(2.3 * scale, 2.302 * scale, 0.0),
        )
        assert codes(made) == ["SC0802"]


def test_overflow_of_an_activation_is_placed() -> None:
    losses = [2.3, 3.0, math.nan]
    (finding,) = CHECK.run(recording(steps=steps(losses), first_non_finite=("activation", "2", 2))).findings

    assert (finding.code, finding.location) == ("SC0801", "2")


@pytest.mark.parametrize("first", [("gradient", "0.weight", 1), ("input", "", 0)])
def test_what_gradient_norms_owns_is_left_to_it(first: Any) -> None:
    """And it is no pass: nothing can be said of a course that stops being a number."""
    with pytest.raises(Skip, match="gradient-norms"):
        CHECK.run(recording(steps=steps([2.3, math.nan]), first_non_finite=first))


def test_an_infinite_gradient_after_growth_is_an_explosion() -> None:
    made = recording(steps=steps([2.3, 2e4, 3e25, math.nan]), first_non_finite=("gradient", "0.weight", 2))

    assert codes(made) == ["SC0801"]


def test_a_trial_in_the_warm_up_says_so() -> None:
    outcome = CHECK.run(recording(warmup_share=0.01))

    assert any("warm-up" in item.why for item in outcome.not_checked)


@pytest.mark.parametrize(("count", "said"), [(1, "1 step is too few"), (9, "9 steps are too few")])
def test_a_trial_of_a_few_steps_shows_explosions_only(count: int, said: str) -> None:
    with pytest.raises(Skip, match=said):
        CHECK.run(recording(steps=steps([2.3] * count)))
    assert codes(recording(steps=steps([2.3, *[1e4] * count]))) == ["SC0802"]
    assert codes(recording(steps=steps([2.3] * 10))) == []


def test_no_loss_is_a_skip() -> None:
    with pytest.raises(Skip, match="return the loss"):
        CHECK.run(recording(steps=()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("std", "expected"), [(30.0, ["SC0803"]), (0.15, [])])
def test_a_huge_initialisation_fails_and_a_usual_one_passes(
    make_bench: Any, seed: int, std: float, expected: list[str]
) -> None:
    def model() -> nn.Module:
        network = mlp(depth=6)
        for layer in network:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=std)
        return network

    assert codes(record_trial(make_bench(classifier(model, lr=1e-3), seed=seed), steps=40)) == expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rate", "bad"), [(3.0, True), (0.01, False)])
def test_a_linear_regression_beyond_its_largest_stable_rate_fails(
    make_bench: Any, seed: int, rate: float, bad: bool
) -> None:
    def setup() -> dict[str, Any]:
        made = classifier(lambda: nn.Linear(16, 4), lr=rate, optimizer=torch.optim.SGD)()
        return {**made, "loss_fn": lambda out, labels: (out - nn.functional.one_hot(labels, 4)).square().mean()}

    assert bool(codes(record_trial(make_bench(setup, seed=seed), steps=40))) == bad
