"""Windows that were standardised one by one, and samples with light and dark exchanged, across a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.clean_split import CHECK
from stabcheck.trial.split.levelled import are_levelled, is_one_stretch, shapes
from tests.experiments.split_cases import images

Make = Callable[..., Any]
LENGTH = 40
LEVELS: dict[str, Callable[[Any], Any]] = {
    "standardised": lambda w: (w - w.mean(1, keepdims=True)) / w.std(1, keepdims=True),
    "from 0 to 1": lambda w: (w - w.min(1, keepdims=True)) / np.ptp(w, axis=1, keepdims=True),
    "centred": lambda w: w - w.mean(1, keepdims=True),
}


def series(seed: int, *, noise: float = 0.3) -> Any:
    rng = np.random.default_rng(seed)
    t = np.arange(5000)
    return np.sin(t / 7) + 0.4 * np.sin(t / 19 + 1) + noise * rng.normal(size=5000)


def windows(values: Any, stride: int = 8) -> Any:
    return np.stack([values[start : start + LENGTH] for start in range(0, len(values) - LENGTH, stride)])


def found(make_bench: Make, train: Any, val: Any) -> dict[str, str]:
    def entry() -> dict[str, Any]:
        sides = [torch.tensor(np.asarray(side), dtype=torch.float32) for side in (train, val)]
        loaders = [DataLoader(TensorDataset(x, torch.arange(len(x)) % 3), 64) for x in sides]
        model = nn.Sequential(nn.Flatten(), nn.Linear(sides[0][0].numel(), 3))
        made = {"model": model, "train_loader": loaders[0], "val_loader": loaders[1], "loss_fn": F.cross_entropy}
        return {**made, "optimizer": torch.optim.SGD(model.parameters(), 0.1), "max_steps": 10}

    return {f.code: f.severity for f in CHECK.run(make_bench(entry)).findings}


@pytest.mark.parametrize("name", LEVELS)
def test_windows_of_one_stretch_in_scales_of_their_own(make_bench: Make, name: str) -> None:
    for seed in range(2):
        all_of = LEVELS[name](windows(series(seed)))
        order = np.random.default_rng(seed).permutation(len(all_of))
        assert found(make_bench, all_of[order[150:]], all_of[order[:150]]) == {"SC0303": "fail"}
        assert found(make_bench, all_of[:450], all_of[460:]) == {}


def test_a_wave_that_repeats_itself_is_no_leak(make_bench: Make) -> None:
    all_of = LEVELS["standardised"](windows(series(0, noise=0.0)))
    assert "SC0303" not in found(make_bench, all_of[:450], all_of[460:])


def test_shapes_do_not_depend_on_level_and_scale() -> None:
    rows = windows(series(3))[:, :, None].astype(np.float32).reshape(-1, LENGTH)
    other = (3 * rows - 2).astype(np.float32)
    assert (shapes(rows, LENGTH) == shapes(other, LENGTH)).mean() > 0.999
    assert not are_levelled(rows, LENGTH)
    assert are_levelled(LEVELS["standardised"](rows), LENGTH)
    assert is_one_stretch(rows[1], 5 * rows[0] + 1, LENGTH, 8, at_end=True)
    assert not is_one_stretch(rows[2], rows[0], LENGTH, 8, at_end=True)


def test_samples_with_light_and_dark_exchanged(make_bench: Make) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        x = np.asarray(images(rng)[0], dtype=np.float32).reshape(-1, 8, 8)
        both = np.concatenate([x, x.max() - x])
        order = rng.permutation(len(both))
        cut = len(both) // 4
        assert found(make_bench, both[order[cut:]], both[order[:cut]]) == {"SC0304": "fail"}
        half = len(x) * 3 // 4
        sides = [np.concatenate([part, x.max() - part]) for part in (x[:half], x[half:])]
        assert found(make_bench, *sides) == {}
