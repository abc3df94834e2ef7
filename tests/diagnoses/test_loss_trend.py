from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest

from stabcheck.check import Skip
from stabcheck.diagnoses.loss_trend import CHECK
from stabcheck.recording import Yardsticks
from tests.diagnoses.recordings import falling, flat, recording, steps


def codes(losses: list[float], **changes: Any) -> list[str]:
    return [f.code for f in CHECK.run(recording(steps=steps(losses), **changes)).findings]


def with_spikes(losses: list[float], places: tuple[int, ...], height: float) -> list[float]:
    return [height if i in places else loss for i, loss in enumerate(losses)]


def lost_again() -> list[float]:
    return (
        [9.0 - 8.0 * i / 15 for i in range(16)] + [1.0 + i / 2 for i in range(14)] + [8.0 + 0.1 * i for i in range(10)]
    )


def test_what_was_learnt_and_is_lost_for_good_fails() -> None:
    made = recording(steps=steps(lost_again()))
    (finding,) = CHECK.run(made).findings
    assert (finding.code, finding.severity) == ("SC1301", "fail")
    assert finding.evidence["last"] == pytest.approx(statistics.mean(made.losses[-10:]))
    assert finding.evidence["best"] == pytest.approx(min(statistics.mean(made.losses[i : i + 5]) for i in range(26)))


def test_a_divergence_from_the_start_is_left_to_exploding_gradients() -> None:
    assert codes([2.3 - 0.1 * i for i in range(16)] + [2.0 + i for i in range(24)]) == []


def test_one_low_loss_at_the_end_is_no_loss_for_good() -> None:
    losses = lost_again()
    losses[-3] = 2.0  # below the constant guess of 2.3: as with a sorted dataset, where each new class is soon learnt
    assert codes(losses) == []


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_batches_far_off_are_told_with_their_steps(scale: float) -> None:
    losses = [scale * loss for loss in with_spikes(falling(2.3, 0.3), (9, 21, 34), 40.0)]
    made = recording(steps=steps(losses), yardsticks=Yardsticks(2.3 * scale, 2.302 * scale, 0.0))
    (finding,) = CHECK.run(made).findings
    assert (finding.code, finding.severity) == ("SC1302", "warn")
    assert finding.evidence["places"] == "9, 21, 34"


def test_one_batch_or_the_start_may_be_far_off() -> None:
    assert codes(with_spikes(falling(), (20,), 40.0)) == []
    assert codes([300.0, 200.0, 150.0, 90.0, 60.0, 50.0, 45.0, *falling()[7:]]) == []


def test_losses_that_are_heavy_tailed_throughout_are_no_exceptions() -> None:
    assert codes(with_spikes(flat(1.0), tuple(range(5, 40, 3)), 40.0)) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["noise", "log-normal", "wave", "alternating", "negative", "restarts"])
def test_ordinary_courses_are_silent(kind: str, seed: int) -> None:
    draw = random.Random(seed)
    shapes = {
        "noise": lambda i: 2.3 - 0.04 * i + draw.gauss(0, 0.3),
        "log-normal": lambda i: draw.lognormvariate(0, 0.5),
        "wave": lambda i: 1.2 + math.sin(i / 3),
        "alternating": lambda i: 1.0 + 0.9 * (-1) ** i,
        "negative": lambda i: -0.2 * i + draw.gauss(0, 1),
        "restarts": lambda i: 0.5 + 2.0 * math.exp(-(i % 13) / 4),
    }
    assert codes([shapes[kind](i) for i in range(40)]) == []


def test_the_scatter_is_the_standard_deviation_of_noise_and_blind_to_trend_and_spikes() -> None:
    draw = random.Random(3)
    losses = [5 - 0.1 * i + draw.gauss(0, 0.5) for i in range(400)]
    losses[50] = losses[150] = 500.0
    assert CHECK.run(recording(steps=steps(losses))).measurements["scatter"] == pytest.approx(0.5, rel=0.15)


def test_no_loss_nan_and_few_steps_are_skips() -> None:
    for losses in ([], [1.0] * 10, [2.3] * 30 + [math.nan] * 10):
        with pytest.raises(Skip):
            codes(losses)
