"""Conversions to shorter floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stabcheck.trial.precision.lossy_casts import worst_cast
from tests.experiments.test_precision import judge
from tests.setups import classifier, mlp

MakeBench = Callable[..., Any]


class Converted(nn.Module):
    """Converts `scale * x + offset` to a format and back, in the forward."""

    def __init__(self, dtype: torch.dtype, offset: float, scale: float = 1.0) -> None:
        super().__init__()
        self.net, self.dtype, self.offset, self.scale = mlp(), dtype, offset, scale

    def forward(self, x: torch.Tensor) -> Any:
        x = (self.scale * x.double() + self.offset).to(self.dtype).double()
        return self.net(((x - self.offset) / self.scale).float())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("dtype", "offset"),
    [(torch.bfloat16, 8192.0), (torch.float16, 40000.0), (torch.float32, 1e9), (torch.bfloat16, -8192.0)],
)
def test_values_that_differ_by_less_than_a_step(
    make_bench: MakeBench, dtype: torch.dtype, offset: float, seed: int
) -> None:
    outcome = judge(make_bench, classifier(lambda: Converted(dtype, offset)), seed=seed, steps=4)
    assert [(f.code, f.severity) for f in outcome.findings] == [("SC2109", "fail")]


@pytest.mark.parametrize(
    ("dtype", "offset", "scale"),
    [(torch.bfloat16, 0.0, 1.0), (torch.float16, 30.0, 1.0), (torch.float32, 1e9, 1e4), (torch.bfloat16, 0.0, 1e-9)],
)
def test_values_that_are_told_apart(make_bench: MakeBench, dtype: torch.dtype, offset: float, scale: float) -> None:
    cast = worst_cast(make_bench(classifier(lambda: Converted(dtype, offset, scale))).shared(), 0)
    assert cast is None or cast.share < 0.05


def test_the_share_is_what_a_slow_computation_gives(make_bench: MakeBench) -> None:
    bench = make_bench(classifier(lambda: Converted(torch.bfloat16, 100.0)))
    cast = worst_cast(bench.shared(), 0)
    assert cast is not None
    # Rounding to steps of 0.5 errs evenly between -0.25 and 0.25.
    assert cast.grain == 0.5
    assert cast.share == pytest.approx(0.5 / 12**0.5 / cast.spread, rel=0.1)
