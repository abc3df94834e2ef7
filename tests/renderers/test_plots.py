from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabcheck.renderers.plots import MAX_COLUMNS, Level, Series, linear_axis, log_axis, plot, whole_axis
from stabcheck.renderers.text import Paper

HALF_COSINE = [math.cos(i / 199 * math.pi) + 1 for i in range(200)]


def lines(*series: Series, width: int = 80, ascii: bool = True, **options: object) -> list[str]:
    """A plot as plain strings."""
    return [text.plain for text in plot(Paper(width, ascii=ascii), series, **options)]  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.floats(1e-90, 1e30) | st.floats(-1e30, -1e-90) | st.just(0.0), min_size=1, max_size=20))
def test_linear_axis_holds_all_values_between_round_ticks(values: list[float]) -> None:
    axis = linear_axis(values)

    hair = (axis.high - axis.low) * 1e-5
    assert axis.low <= min(values) + hair
    assert axis.high >= max(values) - hair
    assert 2 <= len(axis.ticks) <= 7
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])


@settings(deadline=None)
@given(st.lists(st.floats(1e-40, 1e30), min_size=1, max_size=20))
def test_log_axis_lies_between_powers_of_ten(values: list[float]) -> None:
    axis = log_axis(values)

    assert axis.low <= min(values) * (1 + 1e-6)
    assert axis.high >= max(values) * (1 - 1e-6)
    assert 2 <= len(axis.ticks) <= 6
    assert all(abs(math.log10(tick) - round(math.log10(tick))) < 1e-9 for tick in axis.ticks)


def test_steps_are_whole_and_show_both_ends() -> None:
    assert whole_axis([0, 9765]).ticks == (0, 9765, 0, 2500, 5000, 7500)
    assert whole_axis([0, 3]).ticks == (0, 3, 0, 1, 2)
    assert whole_axis([7]).ticks == (7,)


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [
        (HALF_COSINE, False),
        ([1 - i / 199 for i in range(200)], False),
        ([0.1 ** (i / 50) for i in range(200)], True),
        ([1e-3] * 100 + [1e-5] * 100, True),
        ([0.0] * 100 + [1.0] * 100, False),
        ([-1.0, 1.0], False),
    ],
)
def test_scale_is_logarithmic_only_where_values_span_decades(values: list[float], logarithmic: bool) -> None:
    shown = lines(Series("x", range(len(values)), values))

    ticks = [float(line.split("+")[0]) for line in shown[:9] if "+" in line]
    assert all(tick > 0 and math.log10(tick) == round(math.log10(tick)) for tick in ticks) is logarithmic


@pytest.mark.parametrize("ascii", [True, False])
def test_a_rising_line_rises(ascii: bool) -> None:
    """Every column has ink, and further right means higher up."""
    shown = lines(Series("x", [0, 100], [0, 1]), ascii=ascii)
    cells = [re.split(r"[|+┤│]", line, maxsplit=1)[1] for line in shown[:9]]
    starts = [min(i for i, c in enumerate(row) if c != " ") for row in cells]

    assert starts == sorted(starts, reverse=True)
    assert len(set(starts)) == 9
    assert {i for row in cells for i, c in enumerate(row) if c != " "} == set(range(max(map(len, cells))))


def test_the_extremes_are_on_the_edge_rows() -> None:
    shown = lines(Series("x", range(3), [0.0, 1.0, 0.0]))

    assert shown[0].split("+")[1].strip()
    assert shown[8].split("+")[1].strip()


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("ascii", [True, False])
def test_plot_fits(width: int, ascii: bool) -> None:
    shown = lines(Series("x", range(200), HALF_COSINE), Series("y", range(200), HALF_COSINE), width=width, ascii=ascii)

    assert max(map(len, shown[:11])) <= min(width, MAX_COLUMNS + 12)
    if ascii:
        assert all(line.isascii() for line in shown)


def test_curves_carry_their_numbers_without_colour() -> None:
    """Two identical curves are both to be seen, and the legend names them."""
    shown = lines(Series("head", range(200), HALF_COSINE), Series("body", range(200), HALF_COSINE))
    canvas, ends = zip(*((line[8:].rstrip("12, "), line[8:]) for line in shown[:9]), strict=True)

    assert sum(end.endswith(" 1,2") for end in ends) == 1, "beside the row in which both end"
    assert not set("".join(canvas)) & set("12"), "no number looks like a point of a curve"
    assert "1 head" in shown[-1]
    assert "2 body" in shown[-1]


def test_one_curve_needs_no_legend() -> None:
    assert len(lines(Series("x", range(200), HALF_COSINE))) == 9 + 2


def test_a_level_that_a_log_axis_cannot_show_is_named() -> None:
    shown = lines(Series("x", [0, 1], [1.0, 1e-4]), levels=[Level("floor", 0.0), Level("constant", 0.5)], log=True)

    assert "floor 0 (off the scale)" in shown[-1]
    assert ". . . constant 0.5" in shown[-1]


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
def test_nothing_finite_gives_no_plot(values: list[float]) -> None:
    assert lines(Series("x", range(len(values)), values)) == []


def test_holes_are_left_out() -> None:
    assert lines(Series("x", range(4), [1.0, math.nan, math.inf, 2.0])) == lines(Series("x", [0, 3], [1.0, 2.0]))
