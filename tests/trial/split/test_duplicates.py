"""Digests, counts and rates, each against a slower and obvious computation."""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest

from stabcheck.trial.split.duplicates import digest_rows, digest_texts, halves_of, isolated, rate_p, repeats


def test_digests_are_equal_exactly_where_rows_are() -> None:
    rows = np.random.default_rng(0).integers(0, 2, (200, 6))
    digests = digest_rows(rows)
    same = (rows[:, None] == rows[None]).all(axis=2)
    assert ((digests[:, None] == digests[None]) == same).all()
    assert (digest_rows(list(rows)) == digests).all()


def test_texts_are_folded_by_case_and_spacing_only() -> None:
    texts = ["The  cat ", "the cat", "the cats"]
    one, two, three = digest_texts(texts, digest_rows(texts))
    assert one == two != three
    assert len(set(digest_rows(texts))) == 3


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


@pytest.mark.parametrize("width", [2, 3, 4, 7, 20])
def test_halves_are_complementary_and_the_same_for_rows_of_any_length(width: int) -> None:
    row = np.arange(width)
    one, two = halves_of(row[None])
    assert sorted([*one[0], *two[0]]) == row.tolist()
    assert abs(one.shape[1] - two.shape[1]) <= 1
    listed = halves_of([row, np.arange(30)])
    assert listed[0][0].tolist() == one[0].tolist()


def test_isolated_contents_share_neither_half_with_another() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.integers(0, 2, (300, 8)), rng.integers(0, 10**6, (50, 8))])
    inputs, (one, two) = digest_rows(rows), halves_of(rows)
    halves = np.stack([digest_rows(one), digest_rows(two)], axis=1)
    distinct = np.unique(rows, axis=0)
    expected = [
        all(
            sum((half == mine).all(axis=1)) == 1
            for half, mine in zip(halves_of(distinct), halves_of(row[None]), strict=True)
        )
        for row in rows
    ]
    assert isolated(inputs, inputs, halves).tolist() == expected
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
