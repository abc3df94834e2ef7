"""What the pictures of the trial are drawn from."""

from __future__ import annotations

import math

import pytest

from stabcheck.diagnoses import _profiles, gradient_norms, vanishing_gradients
from tests.diagnoses.recordings import STEPS, parameter, recording, signal, steps


def test_a_layers_gradient_is_that_of_all_its_parameters() -> None:
    weight, bias = parameter("0.weight", grad_norm=(3.0,) * STEPS), parameter("0.bias", grad_norm=(4.0,) * STEPS)
    late = parameter("1.weight", grad_norm=(None,) * 2 + (0.5,) * (STEPS - 2))
    silent = parameter("2.weight", grad_norm=(None,) * STEPS)

    found = _profiles.gradients(recording(parameters=(weight, late, bias, silent)))

    assert found["layers"] == ["0", "1"]
    assert found["steps"] == list(range(STEPS))
    assert found["norms"] == [[5.0] * STEPS, [None, None] + [0.5] * (STEPS - 2)]


def test_an_update_is_measured_against_the_weights_of_its_layer() -> None:
    moves = tuple(0.1 * (i + 1) for i in range(10))
    one = parameter("0.weight", weight_norm=(3.0,) * 10, update_norm=moves)
    other = parameter("0.second", weight_norm=(4.0,) * 10, update_norm=(0.0,) * 10)
    bias = parameter("0.bias", shape=(4,), update_norm=(99.0,) * 10)
    zero = parameter("1.weight", weight_norm=(0.0,) * 10)

    found = _profiles.updates(recording(parameters=(one, other, bias, zero)))

    assert found["layers"] == ["0"]
    assert found["largest"] == [0.2]
    assert found["median"] == [pytest.approx(0.11)]


def test_activations_are_those_of_the_first_and_the_last_sampled_step() -> None:
    found = _profiles.activations(recording(signals=(signal("0", rms=2.0), signal("2", rms=0.12345))))

    assert found == {"layers": ["0", "2"], "layers_in_all": 2, "first": [2.0, 0.123], "last": [2.0, 0.123]}


@pytest.mark.parametrize("count", [0, 1, 2, 59, 60, 61, 119, 1000])
def test_thinning_keeps_both_ends_and_no_more_than_it_may(count: int) -> None:
    rows = _profiles.spaced(count, 60)

    assert len(rows) == min(count, 60) == len(set(rows))
    assert rows == sorted(rows)
    assert not rows or (rows[0], rows[-1]) == (0, count - 1)


def test_a_long_trial_of_a_deep_model_stays_small_and_keeps_its_spike() -> None:
    losses = [1.0 + 0.001 * (i % 7) for i in range(5000)]
    losses[2345] = 80.0
    deep = tuple(parameter(f"{i}.weight", grad_norm=(1.0,) * 5000, clipped_norm=(1.0,) * 5000) for i in range(300))
    observed = recording(steps=steps(losses), parameters=deep)

    trial, layers = _profiles.trial(observed), _profiles.gradients(observed)

    assert len(trial["steps"]) == len(trial["losses"]) <= 200
    assert trial["losses"][trial["steps"].index(2345)] == 80.0
    assert trial["constant"] == 2.3
    assert (len(layers["norms"]), len(layers["norms"][0]), layers["layers_in_all"]) == (60, 60, 300)
    assert (layers["layers"][0], layers["layers"][-1]) == ("0", "299")


def test_losses_and_norms_that_are_no_numbers_are_kept_as_such() -> None:
    odd = recording(
        steps=steps([1.0, math.nan, math.inf]), parameters=(parameter("0.weight", grad_norm=(1.0, math.inf, math.nan)),)
    )

    assert [str(loss) for loss in _profiles.trial(odd)["losses"]] == ["1.0", "nan", "inf"]
    assert [str(norm) for norm in _profiles.gradients(odd)["norms"][0]] == ["1.0", "inf", "nan"]


def test_the_checks_publish_them() -> None:
    observed = recording()

    gradients = gradient_norms.CHECK.run(observed).measurements
    assert gradients["trial"]["losses"][0] == observed.losses[0]
    assert gradients["by_layer"]["layers"] == ["0", "2", "4"]
    assert gradients["updates"]["median"] == [0.01] * 3
    assert vanishing_gradients.CHECK.run(observed).measurements["activations"]["layers"] == ["0", "2", "4"]
