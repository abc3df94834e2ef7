from __future__ import annotations

from typing import Any

import pytest
import torch

from stabcheck.trial.optimizers.denominators import below_eps


def stepped(kind: Any, gradients: list[torch.Tensor], **options: Any) -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer: torch.optim.Optimizer = kind([parameter], lr=1e-3, **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam])
def test_share_is_that_of_the_gradients_themselves(kind: Any) -> None:
    sizes = torch.tensor([1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 0.0])
    optimizer = stepped(kind, [sizes] * 3, eps=1e-8)

    share, median = below_eps(optimizer) or (0.0, 0.0)

    # After equal gradients the corrected mean square is the square; what never had a gradient does not count.
    assert share == pytest.approx(2 / 5)
    assert median == pytest.approx(1e-7, rel=1e-3)


def test_large_tensors_count_by_their_size() -> None:
    large, small = torch.nn.Parameter(torch.zeros(100_000)), torch.nn.Parameter(torch.zeros(100))
    optimizer = torch.optim.Adam([large, small])
    large.grad, small.grad = torch.full_like(large, 1e-12), torch.full_like(small, 1.0)
    optimizer.step()

    share, median = below_eps(optimizer) or (0.0, 0.0)

    assert share == pytest.approx(100_000 / 100_100, rel=1e-3)
    assert median == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Rprop])
def test_optimizers_without_eps_have_no_share(kind: Any) -> None:
    assert below_eps(stepped(kind, [torch.ones(3)])) is None
