"""The part of precision that judges conversions of values to a shorter float format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Rule

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench

WIPED_OUT = 0.5
"""Rounding error over the standard deviation of the values, both RMS: four steps of the format hold then all that there was. A
conversion of standardised values to bfloat16 has 0.002."""

WIPED = Rule(
    "SC2109",
    "values-rounded-away",
    "fail",
    message="converting values of {mean:.4g} ± {spread:.2g} to {dtype} rounds them to steps of {grain:.2g}: the error is "
    "{share:.0%} of what they differ by",
    fix="take the mean off and scale the values in float32 first, then convert; numbers need to be near zero to be told apart in "
    "a short format",
    why="What tells the samples apart is gone before the model sees it, and no training brings it back.",
)


def judge(bench: Bench) -> list[Finding]:
    """The worst conversion, where hardly anything is left."""
    from stabcheck.trial.precision.lossy_casts import worst_cast

    cast = worst_cast(bench.shared(), bench.seed)
    if cast is None or cast.share < WIPED_OUT:
        return []
    facts: dict[str, Any] = {
        "dtype": cast.dtype,
        "share": cast.share,
        "grain": cast.grain,
        "mean": cast.mean,
        "spread": cast.spread,
    }
    return [WIPED.at(None, source=cast.source, **facts)]
