"""Versions of one original that were made before the split: training is as full of them as validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stabcheck.check import Outcome
from stabcheck.experiments.clean_split import CHECK
from stabcheck.trial.bench import Bench
from tests.experiments.split_cases import Array, Sides, halved, setup

MakeBench = Callable[..., Bench]
Data = tuple[Array, Array]


def found(make_bench: MakeBench, sides: Sides) -> dict[str, str]:
    outcome: Outcome = CHECK.run(make_bench(setup(sides)))
    return {finding.code: finding.severity for finding in outcome.findings}


def walks(rng: Any, count: int = 900) -> Data:
    return rng.normal(size=(count, 80)).cumsum(1).astype(np.float32), rng.integers(0, 3, count)


def pictures(rng: Any, count: int = 900) -> Data:
    return rng.normal(size=(count, 12, 12)).cumsum(1).cumsum(2).astype(np.float32), rng.integers(0, 4, count)


def each(values: Array, rows: Array) -> Array:
    return values.reshape(-1, *[1] * (rows.ndim - 1)).astype(np.float32)


def gain(rows: Array, rng: Any) -> Array:
    return rows * each(rng.uniform(0.7, 1.4, len(rows)), rows)


def contrast(rows: Array, rng: Any) -> Array:
    return gain(rows, rng) + each(rng.normal(size=len(rows)), rows) * rows.std()


def noise(rows: Array, rng: Any) -> Array:
    return (rows + 0.03 * rows.std() * rng.normal(size=rows.shape)).astype(np.float32)


def noise_and_contrast(rows: Array, rng: Any) -> Array:
    return noise(contrast(rows, rng), rng)


@pytest.mark.parametrize("change", [gain, contrast, noise, noise_and_contrast])
@pytest.mark.parametrize("make", [walks, pictures])
@pytest.mark.parametrize("seed", range(3))
def test_a_version_of_every_third_sample(make_bench: MakeBench, make: Any, change: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = make(rng)
    rows, labels = np.concatenate([rows, change(rows[::3], rng)]), np.concatenate([labels, labels[::3]])
    assert found(make_bench, halved(rows, labels, rng)) == {"SC0304": "fail"}


@pytest.mark.parametrize("change", [gain, noise])
def test_the_same_versions_on_their_original_s_side_are_clean(make_bench: MakeBench, change: Any) -> None:
    rng = np.random.default_rng(0)
    train, labels, val, val_labels = halved(*walks(rng), rng)
    sides = (np.concatenate([train, change(train[::3], rng)]), np.concatenate([labels, labels[::3]]), val, val_labels)
    assert found(make_bench, sides) == {}


def sprites(rng: Any) -> Data:
    """One of three little pictures, at one of a hundred places, more or less bright."""
    kinds = rng.random((3, 5, 5))
    labels, rows = rng.integers(0, 3, 900), np.zeros((900, 16, 16), np.float32)
    for row, label in zip(rows, labels, strict=True):
        top, left = rng.integers(0, 11, 2)
        row[top : top + 5, left : left + 5] = kinds[label] * rng.uniform(0.5, 1)
    return rows, labels


def rectangles(rng: Any) -> Data:
    labels, rows = rng.integers(0, 3, 900), np.zeros((900, 16, 16), np.float32)
    for row, label in zip(rows, labels, strict=True):
        (top, left), size = rng.integers(0, 10, 2), rng.integers(3, 7)
        row[top : top + (1 if label == 1 else size), left : left + (1 if label == 2 else size)] = rng.uniform(0.4, 1)
    return rows, labels


def few_waves(rng: Any) -> Data:
    """Frequencies and phases from a grid, free amplitudes: some have the shape of another."""
    time, wave = np.linspace(0, 1, 64), rng.integers(2, 12, 600)
    phase, height = rng.integers(0, 20, 600) / 20, rng.uniform(0.5, 2, 600)
    rows = height[:, None] * np.sin(2 * np.pi * (wave[:, None] * time + phase[:, None]))
    return rows.astype(np.float32), (wave > 6).astype(int)


def waves(rng: Any) -> Data:
    """In the plane of a sine and a cosine, where three neighbours are often on a line."""
    time, wave = np.linspace(0, 1, 64), rng.integers(2, 6, 900)
    phase, height = rng.random(900), rng.uniform(0.5, 2, 900)
    return (height[:, None] * np.sin(2 * np.pi * (wave[:, None] * time + phase[:, None]))).astype(np.float32), wave


def ramps(rng: Any) -> Data:
    rows = rng.normal(size=(600, 1)) * np.arange(32) + rng.normal(size=(600, 1))
    return rows.astype(np.float32), rng.integers(0, 2, 600)


def people(rng: Any) -> Data:
    """Three or so looks at each of three hundred people, who are the classes."""
    centres, who = rng.normal(size=(300, 64)), rng.integers(0, 300, 900)
    return (centres[who] + 0.1 * rng.normal(size=(900, 64))).astype(np.float32), who


@pytest.mark.parametrize("make", [sprites, rectangles, few_waves, waves, ramps, people, walks, pictures])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_alike_by_nature_is_clean(make_bench: MakeBench, make: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert found(make_bench, halved(*make(rng), rng)) == {}
