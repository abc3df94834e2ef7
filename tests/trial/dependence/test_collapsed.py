"""Ids that lose their values before they are looked up, and those that are merged on purpose (SC1911)."""

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
Lookup = Callable[[torch.Tensor], torch.Tensor]

COLLAPSING: dict[str, tuple[Lookup, bool]] = {
    "divided": (lambda ids: ids // 40, False),
    "modulo 1": (lambda ids: ids % 1, False),
    "clamped": (lambda ids: ids.clamp(max=3), False),
    "fractions cut": (lambda ids: ids.long(), True),
}
SOUND: dict[str, tuple[Lookup, int, bool]] = {
    "as they are": (lambda ids: ids, 40, False),
    "merged, with rows for that": (lambda ids: ids // 10, 4, False),
    "halved": (lambda ids: ids // 2, 40, False),
    "fractions spread": (lambda ids: (ids * 39).round().long(), 40, True),
    "in buckets": (lambda ids: (ids > 0.5).long(), 2, True),
}


def entry(lookup: Lookup, rows: int, *, fractions: bool) -> Any:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 40, (400,), generator=generator)
    x = torch.randn(400, 2, generator=generator)
    table = torch.cat([x, ids[:, None] / (39.0 if fractions else 1.0)], 1)
    wanted = x[:, 0] + 0.1 * torch.randn(400, generator=generator)

    def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x[:, 2] if fractions else x[:, 2].long()
        return model.head(torch.cat([x[:, :2], model.table(lookup(found))], 1)).squeeze(1)

    return setup(
        lambda: Model(forward, table=nn.Embedding(rows, 3), head=nn.Linear(5, 1)), table, wanted, loss_fn=F.mse_loss
    )


@pytest.mark.parametrize("name", COLLAPSING)
def test_values_that_are_lost_before_they_are_looked_up(make_bench: Make, name: str) -> None:
    lookup, fractions = COLLAPSING[name]
    for seed in range(3):
        (finding,) = CHECK.run(make_bench(entry(lookup, 40, fractions=fractions), seed=seed)).findings
        assert (finding.code, finding.severity, finding.location) == ("SC1911", "fail", "table")
        assert finding.evidence["values"] > 30
        assert finding.evidence["ids"] <= 4


@pytest.mark.parametrize("name", SOUND)
def test_values_that_are_merged_on_purpose(make_bench: Make, name: str) -> None:
    lookup, rows, fractions = SOUND[name]
    assert not CHECK.run(make_bench(entry(lookup, rows, fractions=fractions))).findings
