"""Codes for missing values that were scaled with the rest: what they cost is measured (SC1713)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.data_health import CHECK
from stabcheck.trial.data.filling import filled
from stabcheck.trial.data.missing_values import Code


def entry(code: float, columns: int, seed: int) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        x = 50 + 10 * torch.randn(600, 8, generator=generator)
        y = ((x - 50) / 10) @ torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0])
        x[:, :columns][torch.rand(600, columns, generator=generator) < 0.06] = code
        x = (x - x.mean(0)) / x.std(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
        return {
            "model": model,
            "train_loader": DataLoader(TensorDataset(x, y / y.std()), 32, shuffle=True),
            "loss_fn": F.mse_loss,
            "optimizer": torch.optim.Adam(model.parameters(), lr=3e-3),
            "max_epochs": 10,
        }

    return build


@pytest.mark.parametrize("seed", range(3))
def test_codes_that_drown_their_columns_fail_and_a_rare_one_warns(make_bench: Callable[..., Any], seed: int) -> None:
    for columns, severity in ((6, "fail"), (1, "warn")):
        (finding,) = CHECK.run(make_bench(entry(9999.0, columns, seed), seed=seed)).findings
        assert (finding.code, finding.severity) == ("SC1713", severity)
    assert not CHECK.run(make_bench(entry(50.0, 6, seed), seed=seed)).findings


def test_a_filled_column_is_in_the_units_of_its_other_values() -> None:
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0], [99.0, 5.0]])
    code = Code("0", 99.0, (0,), 0.3, 1.0, 3.0, mean=2.0, spread=1.0)
    assert filled(rows, [code]).tolist() == [[-1.0, 5.0], [1.0, 5.0], [0.0, 5.0]]
