from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stabcheck.trial.loss_contract import origins
from stabcheck.trial.loss_contract.watch import crossed

SCORES = torch.randn(4, 3, 5, requires_grad=True)


def test_a_softmax_is_seen_through_what_only_moves_its_values() -> None:
    made = SCORES.softmax(-1).transpose(1, 2)[:2].flatten().clone().double()

    assert origins.origin(made)[0] == "Softmax"
    assert origins.origin(made)[2], "axes were moved"
    assert origins.origin(2 * made)[0] == "Mul"


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_the_axis_of_a_softmax_is_read_from_the_graph(axis: int) -> None:
    for function in (F.softmax, F.log_softmax):
        _, node, _ = origins.origin(function(SCORES, dim=axis))
        assert origins.softmax_axis(node) == (axis % 3, (4, 3, 5))


def test_probabilities_are_told_by_their_sums() -> None:
    probabilities = SCORES.softmax(1)

    assert origins.sums_to_one(probabilities, 1)
    assert not origins.sums_to_one(probabilities, 2)
    assert not origins.sums_to_one(probabilities - 0.5 + 0.5 / 3, 1), "negative"
    assert origins.log_sums_to_one((probabilities + 1e-8).log(), 1)
    assert not origins.log_sums_to_one(SCORES, 1)


@pytest.mark.parametrize("a", [(6,), (6, 1), (1, 6), (2, 3), (3, 2), (1, 2, 3), (2, 1, 3)])
@pytest.mark.parametrize("b", [(6,), (6, 1), (1, 6), (2, 3), (3, 2), (1, 2, 3), (2, 1, 3)])
def test_shapes_are_crossed_where_arithmetic_makes_more_of_them(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        grown = (torch.zeros(a) - torch.zeros(b)).numel() > 6
    except RuntimeError:
        grown = False

    assert crossed(torch.Size(a), torch.Size(b)) == grown
