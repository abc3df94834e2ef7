from __future__ import annotations

import pytest
import torch

from stabcheck.trial.loop.shares import shares


def gradients(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{n: torch.randn(5, 3, generator=generator) + 1 for n in "ab"} for _ in range(count)]


def mixed(parts: list[dict[str, torch.Tensor]], weights: list[float]) -> dict[str, torch.Tensor]:
    return {n: torch.stack([w * part[n] for w, part in zip(weights, parts, strict=True)]).sum(0) for n in parts[0]}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 0.0, 0.25], [1e-6, 3e-6, 2e-6, -1e-6]])
def test_the_weights_of_a_mixture(weights: list[float], seed: int) -> None:
    parts = gradients(len(weights), seed)

    assert shares(parts, mixed(parts, weights)) == pytest.approx(weights, rel=1e-3, abs=1e-3 * max(weights))


def test_what_is_no_mixture_has_none() -> None:
    *parts, other = gradients(4)

    assert shares(parts, mixed([*parts, other], [0.3, 0.3, 0.3, 0.1])) is None


def test_gradients_that_are_alike_cannot_be_told_apart() -> None:
    one, other = gradients(2)

    assert shares([one, other, one], mixed([one, other], [1.0, 1.0])) is None
    assert shares([one, mixed([one], [0.0])], one) is None
