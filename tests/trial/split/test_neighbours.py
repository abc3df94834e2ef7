"""Neighbours, dimensions and sketches against direct computations."""

from __future__ import annotations

import numpy as np
import pytest

from stabcheck.trial.split.neighbours import NEAR, Neighbours, neighbours
from stabcheck.trial.split.table import Column


def search(train: np.ndarray, val: np.ndarray, shape: tuple[int, ...] = ()) -> dict[str, Neighbours]:
    columns = [Column(rows.astype(np.float32) if rows.dtype.kind == "f" else rows, shape) for rows in (train, val)]
    found = neighbours(columns[0], columns[1], np.arange(len(train)), np.arange(len(val)))
    return {view.view: view for view in found}


@pytest.mark.parametrize("width", [5, 40])
def test_ratios_match_all_distances(width: int) -> None:
    rng = np.random.default_rng(0)
    train, val = rng.normal(size=(200, width)), rng.normal(size=(50, width))
    found = search(train, val)["values"]
    distances = np.linalg.norm(val[:, None] - train[None], axis=2)
    assert found.nearest.tolist() == distances.argmin(axis=1).tolist()
    ordered = np.sort(distances, axis=1)
    assert found.ratio == pytest.approx(ordered[:, 0] / ordered[:, NEAR - 1], rel=1e-3)
    within = np.sort(np.linalg.norm(train[:, None] - train[None], axis=2), axis=1)[:, 1:]
    assert found.within == pytest.approx(within[:, 0] / within[:, NEAR - 1], rel=1e-3)


@pytest.mark.parametrize(("dimension", "slack"), [(1, 0.2), (2, 0.4), (5, 1.2)])
def test_dimension_of_a_cloud_in_a_larger_space(dimension: int, slack: float) -> None:
    rng = np.random.default_rng(dimension)
    cloud = rng.random((3000, dimension)) @ rng.normal(size=(dimension, 12))
    for found in search(cloud[:2500], cloud[2500:])["values"].dimensions:
        assert found == pytest.approx(dimension, abs=slack)


def test_chance_bounds_the_ratios_of_evenly_scattered_points() -> None:
    rng = np.random.default_rng(0)
    found = search(rng.random((4000, 3)), rng.random((2000, 3)))["values"]
    for ratio in (0.1, 0.2, 0.4):
        assert (found.ratio <= ratio).mean() <= found.chance(ratio)


def test_each_view_sees_its_kind_of_copy() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((300, 3, 16, 16)).cumsum(axis=2).cumsum(axis=3)
    copies = {
        "values": images[:20] + 1e-3,
        "normalised": images[:20] * 1.7 + 3,
        "mirrored": images[:20, :, :, ::-1] + 1e-3,
    }
    for view, versions in copies.items():
        found = search(images.reshape(300, -1), versions.reshape(20, -1), (3, 16, 16))[view]
        assert found.nearest.tolist() == list(range(20))
        assert (found.ratio < 0.05).all()


def test_columns_in_their_own_units_count_alike() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(300, 6)) * [1, 1, 1, 1, 1, 1e5]
    near = table[:20] + rng.normal(size=(20, 6)) * 0.01 * table.std(axis=0)
    found = search(table, near)["standardised"]
    assert found.nearest.tolist() == list(range(20))
    assert np.median(found.ratio) < 0.05


def test_sequences_are_compared_by_their_runs() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 1000, (300, 40))
    moved = np.roll(tokens[:20], 3, axis=1)
    found = search(tokens, moved, (40,))["tokens"]
    assert found.nearest.tolist() == list(range(20))
