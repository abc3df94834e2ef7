from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from stabcheck.trial.loop.ownership import alive_optimizers, looks_fresh, reaches, replaced_by


@pytest.mark.parametrize(
    "fill",
    [nn.init.xavier_normal_, nn.init.kaiming_uniform_, nn.init.orthogonal_, nn.init.zeros_, lambda w: None],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_layer_as_drawn_looks_fresh(fill: Callable[[torch.Tensor], object], seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(64, 64)
    fill(layer.weight)

    assert looks_fresh(layer)


def test_norms_look_fresh_until_trained() -> None:
    norm = nn.LayerNorm(32)
    assert looks_fresh(norm)

    with torch.no_grad():
        norm.weight += torch.linspace(0, 0.1, 32)
    assert not looks_fresh(norm)


@pytest.mark.parametrize("seed", range(3))
def test_a_layer_that_has_learnt_a_direction_does_not(seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(64, 64)
    with torch.no_grad():
        layer.weight += torch.outer(torch.randn(64), torch.randn(64)) * 3 * layer.weight.std()

    assert not looks_fresh(layer)


def test_replacements_are_found_by_shape_and_then_by_inputs() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 5))
    names = [name for name, _ in model.named_parameters()]

    assert replaced_by(model, names, [torch.zeros(5, 8)]) == ["1.weight", "1.bias"]
    assert replaced_by(model, names[2:], [torch.zeros(3, 8), torch.zeros(3)]) == ["1.weight", "1.bias"]
    assert replaced_by(model, names, [torch.zeros(5, 3), torch.zeros(2)]) == []


def test_the_graph_is_followed_to_parameters() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    hidden = first(torch.randn(2, 4))

    assert reaches([hidden], {id(first.weight)})
    assert not reaches([hidden], {id(second.weight)})
    assert not reaches([hidden.detach()], {id(first.weight)})


def test_optimizers_that_are_kept_anywhere_are_found() -> None:
    layer = nn.Linear(2, 2)
    hidden = {"deep": [torch.optim.SGD(layer.parameters(), lr=1.0)]}

    assert any(optimizer is hidden["deep"][0] for optimizer in alive_optimizers())
