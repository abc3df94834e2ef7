"""Inputs of which zeros are made before anything is multiplied with them (SC1913), and such as only look like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.experiments.input_dependence import CHECK
from tests.experiments.dependence_cases import Model, setup

Make = Callable[..., Any]
Weigh = Callable[[torch.Tensor], torch.Tensor]

ZERO: dict[str, tuple[Weigh, str]] = {
    "divided by integers": (lambda edges: edges // (edges.sum(-1, keepdim=True) + 1), "floordiv"),
    "cut to integers": (lambda edges: (edges / 2).long().float(), "long"),
    "compared with too much": (lambda edges: (edges > 3).float(), "gt"),
    "turned after that": (lambda edges: (edges * 0.0).mT.contiguous(), "mul"),
}
SOUND: dict[str, Weigh] = {
    "fractions": lambda edges: edges / (edges.sum(-1, keepdim=True) + 1),
    "coarse": lambda edges: (edges * 8).long().float() / 8,
    "seldom there": lambda edges: (edges > 0.999).float(),
    "made anew, in its form": lambda edges: torch.full_like(edges, 1 / 5),
    "none, on purpose": lambda edges: torch.zeros_like(edges),
}


def entry(weigh: Weigh) -> Any:
    generator = torch.Generator().manual_seed(7)
    nodes, edges = torch.randn(400, 5, 4, generator=generator), torch.rand(400, 5, 5, generator=generator)
    wanted = ((edges[:, 0].sum(-1) > 2.5) ^ (nodes[..., 0].mean(1) > 0)).long()

    def forward(model: Any, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(model.inner(nodes))
        return model.head((hidden + F.relu(model.conv(weigh(edges) @ hidden))).mean(1))

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0], batch[1]), batch[2])

    layers = {"inner": (4, 16), "conv": (16, 16), "head": (16, 2)}
    return setup(
        lambda: Model(forward, **{k: nn.Linear(*size) for k, size in layers.items()}),
        *(nodes, edges, wanted),
        compute_loss=loss,
    )


@pytest.mark.parametrize("name", ZERO)
def test_zeros_in_the_place_of_an_input(name: str, make_bench: Make) -> None:
    weigh, lost = ZERO[name]
    for seed in range(3):
        (finding,) = CHECK.run(make_bench(entry(weigh), seed=seed)).findings
        assert (finding.code, finding.severity, finding.evidence["batches"]) == ("SC1913", "fail", 8)
        assert finding.evidence["lost"].startswith(lost)
        assert finding.evidence["product"].startswith("matmul")


@pytest.mark.parametrize("name", SOUND)
def test_inputs_that_count_or_are_left_out_openly(name: str, make_bench: Make) -> None:
    for seed in range(3):
        findings = CHECK.run(make_bench(entry(SOUND[name]), seed=seed)).findings
        assert all(finding.code == "SC1904" for finding in findings)
