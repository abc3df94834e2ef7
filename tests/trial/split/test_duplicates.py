"""Counts and rates, each against a slower and obvious computation."""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest

from stabcheck.trial.split.digests import digests
from stabcheck.trial.split.duplicates import isolated, keyed, rate_p, repeats


@pytest.mark.parametrize("seed", range(3))
def test_repeats_match_a_plain_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train, val = (rng.integers(0, 60, n).astype(np.uint64) for n in (80, 30))
    found = repeats(train, val)
    rows = [i for i, v in enumerate(val) if v in set(train.tolist())]
    assert found.rows.tolist() == rows
    assert (train[found.twins] == val[found.rows]).all()
    assert found.share == pytest.approx(len(rows) / 30)
    assert found.within == pytest.approx(np.mean([(train == v).sum() > 1 for v in train]))
    assert found.within_val == pytest.approx(np.mean([(val == v).sum() > 1 for v in val]))
    assert found.distinct == len(set(train.tolist()) & set(val.tolist()))
    assert found.distinct_share == pytest.approx(found.distinct / len(set(val.tolist())))


def test_distinct_within_bounds_what_a_further_sample_of_the_same_kind_has() -> None:
    rng = np.random.default_rng(0)
    train, val = (rng.zipf(1.5, n).astype(np.uint64) for n in (4000, 1000))
    found = repeats(train, val)
    assert 0.2 < found.distinct_share < found.distinct_within < 1.4 * found.distinct_share


def test_isolated_contents_share_neither_half_with_another() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.integers(0, 2, (300, 8)), rng.integers(0, 10**6, (50, 8))])
    second = [1, 2, 4, 7]
    halves = [[tuple(row[[i for i in range(8) if (i in second) == side]]) for row in rows] for side in (False, True)]
    company = [{(a, tuple(row)) for a, row in zip(half, rows, strict=True)} for half in halves]
    expected = [
        all(sum(key == half[i] for key, _ in pairs) == 1 for half, pairs in zip(halves, company, strict=True))
        for i in range(len(rows))
    ]
    found = digests(rows)
    assert isolated(found[:, 0], found[:, 0], found[:, 1:]).tolist() == expected
    assert not any(expected[:300])
    assert all(expected[300:])


def test_a_single_number_is_never_isolated() -> None:
    inputs = np.arange(5, dtype=np.uint64)
    assert not isolated(inputs, inputs, np.stack([inputs + 1, 0 * inputs], axis=1)).any()


@pytest.mark.parametrize(("found", "of", "base", "base_of"), [(4, 449, 0, 1348), (7, 100, 3, 300), (30, 50, 31, 150)])
def test_rate_p_is_the_binomial_tail(found: int, of: int, base: int, base_of: int) -> None:
    n, share = found + base, of / (of + base_of)
    tail = sum(comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(found, n + 1))
    assert rate_p(found, of, base, base_of) == pytest.approx(tail)


def test_rate_p_is_one_without_an_excess() -> None:
    assert rate_p(5, 100, 15, 300) == 1.0
    assert rate_p(0, 100, 0, 300) == 1.0
    ladder = [rate_p(k, 100, 5, 300) for k in range(3, 20)]
    assert all(more < less for less, more in pairwise(ladder))


@pytest.mark.parametrize(("digits", "expected"), [(None, True), (6, True), (2, False), (0, False)])
@pytest.mark.parametrize("seed", range(3))
def test_measured_values_key_a_row_and_rounded_ones_do_not(digits: int | None, expected: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=2000).astype(np.float32)
    column = values if digits is None else np.round(values, digits)
    categories = rng.integers(0, 4, 2000)
    rows = np.stack([categories, column], axis=1)
    contents, code = np.unique(rows, axis=0, return_inverse=True)
    inputs = code.reshape(-1).astype(np.uint64)

    found = keyed(inputs[:50], inputs, column[:, None])

    shared = {float(v) for v in column if len(np.unique(categories[column == v])) > 1}
    assert found.tolist() == [expected and float(v) not in shared for v in column[:50]]
    assert len(contents) <= 2000
