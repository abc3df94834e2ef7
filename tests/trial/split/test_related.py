from __future__ import annotations

import itertools

import numpy as np
import pytest

from stabcheck.trial.split.related import Related, but_for_columns, in_between, reordered
from stabcheck.trial.split.table import Column


def column(rows: object, shape: tuple[int, ...] = ()) -> Column:
    array = np.asarray(rows, np.float32)
    return Column(array, shape or array.shape[1:])


def table(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, 9)) @ rng.standard_normal((9, 9))


def seen(found: Related | None) -> list[int]:
    assert found is not None
    return sorted(found.rows.tolist())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_turned_images_have_the_same_values_in_another_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train = rng.random((60, 12, 12))
    turned = np.stack([np.rot90(train[3]), train[4][::-1], train[5].T, np.roll(train[6], 2, 1)])
    val = np.concatenate([turned, rng.random((20, 12, 12))])
    found = reordered(column(train.reshape(60, -1), (12, 12)), column(val.reshape(24, -1), (12, 12)))
    assert seen(found) == [0, 1, 2, 3]
    assert found is not None
    assert found.twins.tolist() == [3, 4, 5, 6]
    assert found.within == 0.0


def test_rows_of_few_values_are_not_told_apart_by_their_order() -> None:
    rng = np.random.default_rng(0)
    train, val = (rng.integers(0, 4, (200, 20)) for _ in "ab")
    assert seen(reordered(column(train), column(val))) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("changed", range(9))
def test_a_row_with_one_other_column(seed: int, changed: int) -> None:
    rng = np.random.default_rng(seed)
    train = table(rng, 100)
    val = np.concatenate([train[:5], table(rng, 20)])
    val[:5, changed] += 1000
    assert seen(but_for_columns(column(train), column(val))) == [0, 1, 2, 3, 4]
    val[:5, (changed + 1) % 9] += 1000
    assert seen(but_for_columns(column(train), column(val))) == []


def filled_up(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    """New rows, each somewhere between a row and one of its five nearest, as SMOTE makes them."""
    first = rng.integers(0, len(rows), count)
    gaps = np.linalg.norm(rows[first][:, None] - rows[None], axis=2)
    second = np.argsort(gaps, axis=1)[np.arange(count), rng.integers(1, 6, count)]
    share = rng.uniform(0.05, 0.95, (count, 1))
    return rows[first] * share + rows[second] * (1 - share)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_rows_in_between_are_found_where_the_split_came_later(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = table(rng, 150)
    new = filled_up(rng, rows, 100)
    # Both ends stay in training: all new rows in validation are on a line.
    found = in_between(column(rows), column(new))
    assert len(seen(found)) >= 95
    both = np.concatenate([rows, new])[rng.permutation(250)]
    mixed = in_between(column(both[:200]), column(both[200:]))
    assert mixed is not None
    assert mixed.share > 0.2
    later = in_between(column(np.concatenate([rows, new])), column(table(rng, 100)))
    assert seen(later) == []


def test_points_of_a_lattice_or_of_one_line_are_no_evidence() -> None:
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 6, (400, 10))
    assert in_between(column(answers[:300]), column(answers[300:])) is None
    line = rng.uniform(0, 1, (300, 1)) * np.arange(1, 10)
    found = in_between(column(line[:200]), column(line[200:]))
    assert found is not None
    assert found.within > 0.9


def test_a_line_is_a_way_without_detour() -> None:
    rng = np.random.default_rng(1)
    train, val = table(rng, 40), table(rng, 6)
    val[0] = 0.3 * train[7] + 0.7 * train[9]
    expected = [
        row
        for row in range(6)
        if any(
            np.linalg.norm(train[i] - val[row]) + np.linalg.norm(val[row] - train[j])
            < (1 + 1e-6) * np.linalg.norm(train[i] - train[j])
            for i, j in itertools.combinations(range(40), 2)
        )
    ]
    assert expected == [0] == seen(in_between(column(train), column(val)))
