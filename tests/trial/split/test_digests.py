"""Digests are equal where samples are, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from stabcheck.trial.split.digests import BRIEF, digests, folded


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_digests_are_equal_exactly_where_rows_are(kind: type) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (200, 6)).astype(kind)
    whole, *halves = digests(rows).T
    same = (rows[:, None] == rows[None]).all(axis=2)
    assert ((whole[:, None] == whole[None]) == same).all()
    for half, places in zip(halves, ([0, 3, 5], [1, 2, 4]), strict=True):
        same = (rows[:, None, places] == rows[None][:, :, places]).all(axis=2)
        assert ((half[:, None] == half[None]) == same).all()


def test_a_row_has_one_digest_alone_in_a_matrix_and_in_a_list() -> None:
    rows = np.random.default_rng(0).integers(0, 50, (40, 9))
    longer = np.arange(30)
    assert (digests([*rows, longer])[:-1] == digests(rows)).all()
    assert (digests([*rows, longer])[-1] == digests(longer[None])[0]).all()
    assert (digests([rows[0][:0], rows[0]])[1] == digests(rows)[0]).all()


def test_neither_the_order_of_numbers_nor_a_zero_more_is_lost() -> None:
    rows = [np.array(row, np.float32) for row in ([1, 2], [2, 1], [1, 2, 0], [1], [0], [], [0, 0])]
    assert len(set(digests(rows)[:, 0].tolist())) == len(rows)


def test_a_million_rows_that_differ_in_one_number_differ() -> None:
    rows = np.zeros((1_000_000, 2), np.float32)
    rows[:, 1] = np.arange(1_000_000)
    assert len(np.unique(digests(rows)[:, 0])) == 1_000_000


def test_texts_are_folded_by_case_and_spacing_only() -> None:
    texts = ["The  cat ", "the cat", "the cats"]
    whole = digests(texts)[:, 0]
    one, two, three = folded(texts, whole)
    assert one == two != three
    assert len(set(whole)) == 3
    numbers = np.ones((2, 2))
    assert (folded(numbers, whole[:2]) == whole[:2]).all()


def test_brief_texts_have_no_halves() -> None:
    found = digests(["x" * (BRIEF - 1), "y", "z" * BRIEF])
    assert (found[0, 1:] == found[1, 1:]).all()
    assert (found[1, 1:] != found[2, 1:]).all()
