"""SC1725: labels of one side that the neighbours on the other do not confirm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from stabcheck.check import Outcome
from stabcheck.experiments.data_health import CHECK
from stabcheck.trial.bench import Bench
from tests.experiments.data_cases import data, loader, run

MakeBench = Callable[..., Bench]
Sides = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def judge(make_bench: MakeBench, function: Callable[[], dict[str, Any]], seed: int) -> Outcome:
    outcome: Outcome = CHECK.run(make_bench(function, seed=seed))
    return outcome


def found(outcome: Outcome) -> dict[str, str]:
    return {finding.code: finding.severity for finding in outcome.findings}


def redrawn(labels: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(labels), generator=draw) < share
    return torch.where(wrong, labels[torch.randperm(len(labels), generator=draw)], labels)


def half_out_of_step(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """From the middle on each sample has the label of the one before."""
    middle = len(labels) // 2
    return torch.cat([labels[:middle], labels[middle:].roll(1)])


SPOILT: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "redrawn": lambda labels, seed: redrawn(labels, 0.45, seed),
    "out of step": half_out_of_step,
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("side", ["train_loader", "val_loader"])
@pytest.mark.parametrize("seed", range(3))
def test_many_wrong_labels_on_one_side(make_bench: MakeBench, side: str, how: str, seed: int) -> None:
    def entry() -> dict[str, Any]:
        x, y, vx, vy = data(1600, seed)
        train, val = (
            SPOILT[how](labels, seed) if side == key else labels
            for key, labels in (("train_loader", y), ("val_loader", vy))
        )
        return run((x, train), (vx, val))

    outcome = judge(make_bench, entry, seed)
    assert found(outcome) == {"SC1725": "warn"}
    evidence = outcome.findings[0].evidence
    assert evidence["side"] == side
    assert evidence["wrong"] == pytest.approx(0.47, abs=0.12)


def noise_on_both(x: Any, y: Any, vx: Any, vy: Any, seed: int) -> Sides:
    return x, redrawn(y, 0.4, seed), vx, redrawn(vy, 0.4, seed + 1)


def a_tenth(x: Any, y: Any, vx: Any, vy: Any, seed: int) -> Sides:
    return x, redrawn(y, 0.1, seed), vx, vy


def noisy_inputs(x: Any, y: Any, vx: Any, vy: Any, seed: int) -> Sides:
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), y, vx, vy


def holes(x: Any, y: Any, vx: Any, vy: Any, seed: int) -> Sides:
    return torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.3, 0.0, x), y, vx, vy


def rare_in_validation(x: Any, y: Any, vx: Any, vy: Any, seed: int) -> Sides:
    kept = (vy != 0) | (torch.rand(len(vy), generator=torch.Generator().manual_seed(seed)) < 0.1)
    return x, y, vx[kept], vy[kept]


@pytest.mark.parametrize("make", [noise_on_both, a_tenth, noisy_inputs, holes, rare_in_validation])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_only_hard_to_tell_is_not_doubted(make_bench: MakeBench, make: Callable[..., Sides], seed: int) -> None:
    def entry() -> dict[str, Any]:
        x, y, vx, vy = make(*data(1600, seed), seed)
        return run((x, y), (vx, vy))

    assert "SC1725" not in found(judge(make_bench, entry, seed))


class Swapped(Dataset[Any]):
    """Augmented at each read by a quarter of another sample, which looks like a sample all the same."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, *, anew: bool) -> None:
        self.x, self.y, self.anew = x, y, anew

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        rng = torch.Generator().manual_seed(int(torch.randint(2**31, ())) if self.anew else index)
        other = self.x[int(torch.randint(len(self.x), (), generator=rng))]
        part = torch.rand(self.x.shape[1], generator=rng) < 0.4
        return torch.where(part, other, self.x[index]), self.y[index]


def test_inputs_that_are_drawn_anew_are_no_proof(make_bench: MakeBench) -> None:
    def entry(*, anew: bool) -> dict[str, Any]:
        x, y, vx, vy = data(1600, 1)
        return run(DataLoader(Swapped(x, y, anew=anew), 32, shuffle=True), loader((vx, vy)))

    assert "SC1725" not in found(judge(make_bench, lambda: entry(anew=True), 0))


def test_agreement_is_what_the_nearest_five_say() -> None:
    """The numbers by the obvious way, one sample after another."""
    from stabcheck.setup import as_setup
    from stabcheck.trial.data.neighbour_labels import relations
    from stabcheck.trial.data.scan import scan
    from stabcheck.trial.pace import Pace
    from stabcheck.trial.session import Session

    x, y, vx, vy = data(800, 3)
    made = Session(as_setup(run(loader((x, y)), loader((vx, vy)))))
    sides = [scan(made, key, Pace(10.0), 0) for key in ("train_loader", "val_loader")]
    seen = relations(made.setup, *sides, 0)

    assert seen is not None
    assert seen.alike
    train, val = ((rows - rows.mean(0)) / rows.std(0, correction=0) for rows in (x, vx))
    hits = sum(
        int(vy[(val - row).square().sum(1).argsort()[:5]].bincount(minlength=4).argmax() == label)
        for row, label in zip(train, y, strict=True)
    )
    assert seen.back.hits == pytest.approx(hits / len(y), abs=0.02)
    assert seen.back.count == len(y)
    assert not np.isnan(seen.back.kappa)
