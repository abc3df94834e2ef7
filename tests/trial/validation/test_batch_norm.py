"""The comparison of BatchNorm's two modes, against slower and obvious computations."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.setup import as_setup
from stabcheck.trial.session import Session
from stabcheck.trial.validation.batch_norm import BatchNormReport, BatchNormTest
from tests.setups import classifier


def network(momentum: float | None) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(16, 8), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4)
    )


def made(momentum: float | None, seed: int) -> tuple[nn.Sequential, Session, list[Any], BatchNormTest]:
    torch.manual_seed(seed)
    session = Session(as_setup(classifier(lambda: network(momentum))()))
    model: Any = session.model
    batches = list(islice(session.epoch(), 10))
    return model, session, batches, BatchNormTest(session, {"1": model[1]}, {"1"}, batches, seed)


def report(momentum: float | None, seed: int, forwards: int | None = 50, last: int | None = None) -> BatchNormReport:
    return made(momentum, seed)[3].report(made(momentum, seed)[2], forwards, last)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_are_those_of_averaging_by_hand(seed: int) -> None:
    model, session, batches, test = made(0.1, seed)
    for batch in batches:
        session.step(batch)
    kept = copy.deepcopy(model.state_dict())
    seen = test.report(batches, 50, None)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())

    by_hand: Any = copy.deepcopy(model).eval()
    hidden = [by_hand[0](x).detach() for x, _ in batches]
    by_hand[1].running_mean = torch.stack([h.mean(0) for h in hidden]).mean(0)
    by_hand[1].running_var = torch.stack([h.var(0) for h in hidden]).mean(0)
    averaged = [F.cross_entropy(by_hand(x), y).item() for x, y in batches[:6]]
    by_hand[1].train()
    trained = [F.cross_entropy(by_hand(x), y).item() for x, y in batches[:6]]
    assert seen.averaged == pytest.approx(sum(averaged) / 6, rel=1e-5)
    assert seen.trained == pytest.approx(sum(trained) / 6, rel=1e-5)
    assert seen.gaps == pytest.approx([a - b for a, b in zip(averaged, trained, strict=True)], abs=1e-5)
    assert seen.at_start > seen.trained
    assert (seen.uses, seen.values) == ({"1": 1}, 32)
    assert seen.erratic is None


@pytest.mark.parametrize("momentum", [0.001, 0.01, 0.03])
def test_statistics_at_the_end_are_those_of_going_there(momentum: float) -> None:
    """With frozen weights, n forwards over the same batches lead to the predicted mixture."""
    forwards = 200
    model, _, batches, test = made(momentum, 0)
    seen = test.report(batches, forwards, None)
    assert seen.left == {"1": pytest.approx((1 - momentum) ** forwards)}
    model.train()
    with torch.no_grad():
        for index in range(forwards):
            model(batches[index % len(batches)][0])
    model.eval()
    there = [F.cross_entropy(model(x), y).item() for x, y in batches[:6]]
    assert seen.at_end is not None if seen.left["1"] > 0.01 else seen.at_end is None
    if seen.at_end is not None:
        assert seen.at_end == pytest.approx(sum(there) / 6, rel=2e-2)


def test_what_cannot_be_known_is_not_claimed() -> None:
    assert report(0.1, 0).at_end is None
    assert report(0.001, 0, forwards=None).at_end is None
    assert report(0.0, 0, forwards=None).left == {"1": 1.0}
    cumulative = report(None, 0)
    assert (cumulative.at_end, cumulative.erratic) == (None, None)


def test_statistics_after_the_last_batch() -> None:
    whole, small = report(1.0, 0), report(1.0, 0, last=2)
    assert whole.erratic is not None
    assert small.erratic is not None
    assert small.erratic - small.averaged > 5 * abs(whole.erratic - whole.averaged)
