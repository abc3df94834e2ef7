from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.experiments.training_loop import CHECK
from tests.setups import classifier

MakeBench = Callable[..., Any]


class Narrow(nn.Module):
    """A front of some depth that, as it is drawn, lets hardly anything through if it is narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        deep = [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, width), nn.ReLU()]
        wide = [nn.Linear(16, width), nn.ReLU()]
        self.front, self.head = nn.Sequential(*(wide if width > 16 else deep)), nn.Linear(width, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.front(inputs))
        return out


def freezing(width: int, before: Callable[[nn.Module], None] = lambda model: None, **keys: Any) -> Any:
    def build() -> nn.Module:
        model = Narrow(width)
        before(model)
        model.front.requires_grad_(False)
        return model

    return classifier(build, optimizer=torch.optim.SGD, lr=0.2, max_steps=300, **keys)


def codes(make_bench: MakeBench, setup: Any, seed: int = 0) -> list[tuple[str, str | None]]:
    return [(f.code, f.location) for f in CHECK.run(make_bench(setup, seed=seed)).findings]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_layer_frozen_at_random_is_named(seed: int, make_bench: MakeBench) -> None:
    assert codes(make_bench, freezing(2), seed) == [("SC1522", "front.0")]


@pytest.mark.parametrize("seed", [0, 1])
def test_random_features_that_do_as_well_are_left_alone(seed: int, make_bench: MakeBench) -> None:
    assert codes(make_bench, freezing(256), seed) == []


def loaded(model: nn.Module) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})


def trained(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(torch.ones(2, 16)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("before", [loaded, trained])
def test_what_was_loaded_or_trained_may_be_frozen(before: Any, make_bench: MakeBench) -> None:
    assert codes(make_bench, freezing(2, before)) == []


def test_a_target_outside_the_graph_may_be_frozen(make_bench: MakeBench) -> None:
    class Distilled(Narrow):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                target = self.front(inputs)
            out: torch.Tensor = self.head(inputs[:, :2]) + 0 * target.sum()
            return out

    def build() -> nn.Module:
        model = Distilled(2)
        model.front.requires_grad_(False)
        return model

    assert codes(make_bench, classifier(build, loss_fn=F.cross_entropy)) == []
