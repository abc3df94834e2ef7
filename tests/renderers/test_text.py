from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabcheck.renderers.text import clean, clip, fact, numbers, seconds, short
from stabcheck.stats import number


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.0, "0"),
        (12.0, "12"),
        (0.5, "0.5"),
        (0.0123, "0.0123"),
        (3e-4, "3e-4"),
        (1.234e-7, "1.23e-7"),
        (0.001, "1e-3"),
        (1234.5, "1.23e3"),
        (1500000.0, "1.5e6"),
        (-2.5, "-2.5"),
        (99.95, "100"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_short_numbers(given: float, expected: str) -> None:
    assert short(given) == expected


@given(st.floats(1e-99, 1e99) | st.floats(-1e99, -1e-99))
def test_short_numbers_keep_three_digits(value: float) -> None:
    assert float(short(value)) == pytest.approx(value, rel=5.1e-3)
    assert len(short(value)) <= 9


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0.04, "0.0 s"), (4.21, "4.2 s"), (41.3, "41 s"), (119.7, "2.0 min"), (9000, "2.5 h"), (math.nan, "?"), (-1, "?")],
)
def test_durations(given: float, expected: str) -> None:
    assert seconds(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\nb\tc\r\nd", "a b c d"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
        ("\x9b2J", "\\x9b2J"),
        ("\udc80", "\\udc80"),
        ("[bold]é 日本", "[bold]é 日本"),
        ("a\u2028b", "a b"),
    ],
)
def test_clean_leaves_nothing_that_steers_a_terminal(given: str, expected: str) -> None:
    assert clean(given) == expected


def test_clean_in_ascii_keeps_the_meaning() -> None:
    assert clean("3 × 4 ≤ 12 – é…", ascii=True) == "3 x 4 <= 12 - \\xe9..."


def test_clean_keeps_lines_where_asked() -> None:
    assert clean("a\n  b\x07", lines=True) == "a\n  b\\x07"


@pytest.mark.parametrize(
    ("given", "expected"),
    [(True, None), ("1.0", None), (None, None), ([], None), ("-Infinity", -math.inf), (3, 3.0), (10**400, math.inf)],
)
def test_numbers_of_json(given: object, expected: float | None) -> None:
    assert number(given) == expected


def test_a_sequence_keeps_its_length() -> None:
    """Measurements are per step: a hole must not move what follows it."""
    found = numbers([1, None, "NaN", 2.5])

    assert len(found) == 4
    assert found[0] == 1.0
    assert math.isnan(found[1])
    assert math.isnan(found[2])
    assert found[3] == 2.5
    assert numbers("NaN") == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.012345, "0.0123"),
        (3, "3"),
        (True, "yes"),
        (None, "none"),
        (["a", 1.0], "a, 1"),
        (list(range(9)), "0, 1, 2, 3, 4, 5, … 9 in all"),
        ({"train": 3, "val": [1, 2]}, "train 3, val 1, 2"),
    ],
)
def test_evidence_in_a_few_characters(given: object, expected: str) -> None:
    assert fact(given) == expected


def test_clip_says_that_it_cut() -> None:
    assert clip("abc", 3) == "abc"
    assert clip("abcd", 3) == "ab…"
    assert clip("two words, and more", 14) == "two words…"
    assert clip("two words", 8) == "two…"
    assert clip("two words", 4) == "two…"
