from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stabcheck.trial.split.multiplicity import made_p

Array = Any
MOST = 9


def others(forms: Array, rng: Any, part: float = 0.75) -> Array:
    """For each of a random part of the samples, how many others of that part have its form."""
    kept = forms[rng.random(len(forms)) < part]
    _, code, times = np.unique(kept, return_inverse=True, return_counts=True)
    return times[code] - 1


def some_once(rng: Any) -> Array:
    return np.concatenate([np.arange(900), np.arange(0, 900, 3)])


def all_three_times(rng: Any) -> Array:
    return np.tile(np.arange(300), 4)


def some_three_times(rng: Any) -> Array:
    return np.concatenate([np.arange(900), np.repeat(np.arange(0, 900, 3), 3)])


def evenly_drawn(rng: Any) -> Array:
    return rng.integers(0, 400, 1200)


def unevenly_drawn(rng: Any) -> Array:
    return rng.zipf(1.3, 1200) % 5000


def two_kinds(rng: Any) -> Array:
    return np.concatenate([rng.integers(0, 200, 900), rng.integers(1000, 9000, 600)])


def hardly_any(rng: Any) -> Array:
    return rng.integers(0, 20_000, 1200)


@pytest.mark.parametrize("forms", [some_once, all_three_times, some_three_times])
@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_chosen_number_are_told_from_chance(forms: Callable[[Any], Array], seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert made_p(others(forms(rng), rng), MOST) < 1e-4


@pytest.mark.parametrize("forms", [evenly_drawn, unevenly_drawn, two_kinds, hardly_any])
@pytest.mark.parametrize("seed", range(5))
def test_forms_that_are_drawn_at_random_are_chance(forms: Callable[[Any], Array], seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert made_p(others(forms(rng), rng), MOST) > 0.2


def test_the_inequality_holds_for_mixtures_of_poisson_counts() -> None:
    """Without sampling: the exact probabilities of a mixture of two means, each as often as a million samples give it."""
    counts = np.arange(MOST + 1)
    factorials = np.cumprod(np.concatenate([[1.0], counts[1:]]))
    shares = sum(w * np.exp(-mean) * mean**counts / factorials for w, mean in ((0.7, 0.4), (0.3, 2.5)))
    assert all(shares[k + 1] >= k / (k + 1) * shares[k] ** 2 / shares[k - 1] for k in range(1, MOST))
    drawn = np.repeat(counts, np.round(1e5 * shares).astype(int))
    assert made_p(drawn, MOST) > 0.5
    assert made_p(np.zeros(100, int), MOST) == 1.0
