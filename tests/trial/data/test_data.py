"""Numbers that data-health judges by, each against a slower and more obvious way to get it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.setup import as_setup
from stabcheck.trial.data import missing_values, sample_order, units
from stabcheck.trial.data.drift import drift
from stabcheck.trial.data.label_consistency import Pairing, pairing
from stabcheck.trial.data.neighbour_labels import relations
from stabcheck.trial.data.preprocessing import compare, elements
from stabcheck.trial.data.scan import class_labels, input_paths, replaced, scan, target_paths
from stabcheck.trial.pace import Pace
from stabcheck.trial.session import Session
from tests.experiments.data_cases import curve, data, loader, regressor, run


def session(made: dict[str, Any]) -> Session:
    return Session(as_setup(made))


def test_a_scan_counts_what_a_pass_holds() -> None:
    x, y, *_ = data()
    x[[3, 40, 41], 2] = torch.nan
    y[77] = 9
    found = scan(session(run(loader((x, y)))), "train_loader", Pace(10.0), 0)
    assert (found.samples, len(found.sizes), found.whole, found.kept_all) == (480, 15, True, True)
    assert found.bad == {"0": 3}
    assert [(number, rows) for number, _, rows, _ in found.broken] == [(0, 1), (1, 2)]
    assert (found.extremes["1", "largest"].value, found.extremes["1", "largest"].at) == (9, 77 // 32)
    assert np.concatenate(found.labels).tolist() == y.tolist()


def test_a_scan_leaves_the_generators_alone() -> None:
    x, y, vx, vy = data()
    made = session(run((x, y), (vx, vy)))
    before = torch.get_rng_state()
    scan(made, "train_loader", Pace(10.0), 5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("batch", "setup", "inputs", "targets"),
    [
        ((torch.ones(4, 3), torch.ones(4)), {"loss_fn": F.mse_loss}, ("0",), ("1",)),
        (({"a": torch.ones(4, 3)}, {"b": torch.ones(4, 2)}), {"loss_fn": F.mse_loss}, ("0.a",), ("1.b",)),
        ({"x": torch.ones(4, 3), "labels": torch.ones(4)}, {}, ("x",), ("labels",)),
        ((torch.ones(4, 3), torch.zeros(4, dtype=torch.long)), {"compute_loss": lambda m, b: 0}, ("0",), ()),
    ],
)
def test_parts_of_a_batch(batch: Any, setup: dict[str, Any], inputs: tuple[str, ...], targets: tuple[str, ...]) -> None:
    made = as_setup({"model": regressor(), "train_loader": [batch], **setup})
    assert input_paths(made, batch) == inputs
    assert target_paths(made, batch) == targets
    for path in (*inputs, *targets):
        changed = replaced(batch, path, lambda t: t + 1)
        assert class_labels(made, changed) is None or type(changed) is type(batch)
        assert repr(changed) != repr(batch)


def test_share_between_batches_is_that_of_the_analysis_of_variance() -> None:
    x, y, *_ = data()
    positions = y.argsort()[(torch.arange(480) + torch.randint(0, 150, (480,))).argsort()]
    made = session(run(loader((x[positions], y[positions]))))
    found = sample_order.order(made, scan(made, "train_loader", Pace(10.0), 0))
    assert found is not None
    indicators = F.one_hot(y[positions]).double()
    within = sum(float(((part - part.mean(0)) ** 2).sum()) for part in indicators.split(32))
    total = float(((indicators - indicators.mean(0)) ** 2).sum())
    assert found.between == pytest.approx(1 - within / total)


def test_units_are_those_of_columns_channels_and_features() -> None:
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 3 + 2
    images, steps = torch.randn(20, 3, 8, 8), torch.randn(20, 30, 5)
    for pieces, axis, expected in (
        ([rows[:20], rows[20:]], 1, rows),
        ([images], 1, images.movedim(1, -1).reshape(-1, 3)),
        ([steps], 2, steps.reshape(-1, 5)),
    ):
        found = units.units(pieces)
        assert found is not None
        assert found.axis == axis
        assert found.mean.tolist() == pytest.approx(expected.double().mean(0).tolist())
        standard = found.standard(pieces[0])
        assert standard.shape == pieces[0].shape
    found = units.units([rows])
    assert found is not None
    assert found.standard(rows).std(0, unbiased=False).tolist() == pytest.approx([1.0] * 7, abs=1e-5)


def test_a_map_between_two_sides_is_found_and_undone() -> None:
    rows = torch.rand(400, 9, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 10)
    train, val = rows[:200], 7 * rows[200:] - 3
    sides = [units.units([side]) for side in (train, val)]
    assert sides[0] is not None
    assert sides[1] is not None
    found = compare("0", sides[0], sides[1], elements([train]), elements([val]))
    assert found is not None
    assert "7" in found.identified[:18]
    assert found.ratio == pytest.approx(7, rel=0.1)
    assert found.repair(val).mean(0).tolist() == pytest.approx(train.mean(0).tolist(), rel=1e-4)


def test_drift_is_what_stretches_of_the_training_data_differ_by() -> None:
    rows = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    trend = rows + torch.linspace(0, 12, 600)[:, None]
    for given, low, high in ((rows, 0.0, 0.3), (trend, 2.0, 4.0)):
        made = as_setup(run((given, torch.zeros(600, 1)), None, regressor(4), loss_fn=F.mse_loss))
        seen = scan(Session(made), "train_loader", Pace(10.0), 0)
        assert low <= drift(made, seen, "0", Pace(10.0))[1] <= high


def test_pairs_are_compared_between_two_passes() -> None:
    x, y, *_ = data()
    drawn = torch.randint(0, 4, (480,))

    def collate(rows: Any) -> Any:
        a, b = (torch.stack(part) for part in zip(*rows, strict=True))
        return a, torch.where(torch.rand(len(b)) < 0.5, drawn[torch.randint(0, 480, (len(b),))], b)

    made = session(run(DataLoader(TensorDataset(x, y), batch_size=32, collate_fn=collate)))
    found = pairing(made, scan(made, "train_loader", Pace(10.0), 0), Pace(10.0), 0)
    assert found is not None
    assert found.met == 480
    assert 0.35 < found.agreeing < 0.65  # both right with probability 1/4 + 2/4 * 1/4 + ..., far from chance
    assert found.by_chance == pytest.approx(0.25, abs=0.02)
    assert not found.is_broken
    assert Pairing(400, 0.26, 0.25, certain=True).is_broken
    assert not Pairing(30, 0.26, 0.25, certain=True).is_broken
    assert not Pairing(400, 0.97, 0.97, certain=True).is_broken


def test_neighbours_vote_as_in_a_loop() -> None:
    x, y, vx, vy = data()
    made = as_setup(run((x, y), (vx, vy)))
    sides = [scan(Session(made), key, Pace(10.0), 0) for key in ("train_loader", "val_loader")]
    found = relations(made, sides[0], sides[1], 0)
    assert found is not None
    standard = [(t - t.mean(0)) / t.std(0, unbiased=False) for t in (x, vx)]
    hits = 0
    for row, label in zip(standard[1], vy, strict=True):
        nearest = (standard[0] - row).square().sum(1).argsort()[:5]
        hits += int(y[nearest].bincount(minlength=4).argmax() == label)
    assert found.across.hits == pytest.approx(hits / len(vy), abs=0.02)


def test_codes_are_far_from_everything_else_and_frequent() -> None:
    x, y = curve(0)
    for value, share, expected in ((-999.0, 0.05, True), (-999.0, 0.002, False), (6.0, 0.05, False)):
        rows = x.clone()
        rows[: round(share * len(x)), 2] = value
        made = session(run((rows, y), None, regressor(), loss_fn=F.mse_loss))
        code = missing_values.missing_codes(made, scan(made, "train_loader", Pace(10.0), 0))
        assert (code is not None) == expected
        if code is not None:
            assert (code.value, code.columns, code.share) == (value, (2,), pytest.approx(share))
