from __future__ import annotations

import math
from collections import UserDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.check import Skip
from stabcheck.userland import UserCodeError
from tests.setups import classifier


def session(make_bench: Any, **keys: Any) -> Any:
    setup = classifier()
    return make_bench(lambda: {**setup(), **keys}).session()


@pytest.mark.parametrize("wrap", [dict, UserDict, tuple, list])
def test_a_model_that_returns_its_loss_is_called_with_the_batch(make_bench: Any, wrap: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": F.cross_entropy(self.net(x), labels)}

    parts = {"x": torch.randn(4, 3), "labels": torch.tensor([0, 1, 0, 1])}
    batch = wrap(parts) if wrap in {dict, UserDict} else wrap(parts.values())
    made = session(make_bench, model=Model(), train_loader=[batch], loss_fn=None)

    assert made.loss(batch).item() == pytest.approx(float(made.model(**parts)["loss"]))


@pytest.mark.parametrize(
    ("value", "message"),
    [(3.0, "without .item()"), (torch.ones(3), "reduce it"), (None, "NoneType")],
    ids=["a number", "a vector", "nothing"],
)
def test_what_is_no_loss_is_said_to_be_none(make_bench: Any, value: Any, message: str) -> None:
    made = session(make_bench, loss_fn=lambda outputs, targets: value)

    with pytest.raises(UserCodeError, match="loss_fn") as caught:
        made.loss(made.first_batch())
    assert message in caught.value.message


def test_a_batch_that_is_no_pair_needs_compute_loss(make_bench: Any) -> None:
    made = session(make_bench, train_loader=[torch.randn(4, 16)])

    with pytest.raises(UserCodeError, match="compute_loss"):
        made.loss(made.first_batch())


def test_the_textbook_step_is_the_loop_written_out(make_bench: Any) -> None:
    """Accumulation, clipping and a per-step scheduler, bit for bit."""

    def setup() -> dict[str, Any]:
        made = classifier(accumulate_steps=2, clip_grad_norm=0.1, optimizer=torch.optim.SGD)()
        scheduler = torch.optim.lr_scheduler.ExponentialLR(made["optimizer"], 0.9)
        return {**made, "scheduler": scheduler, "scheduler_interval": "step"}

    bench = make_bench(setup)
    ours = bench.session()
    for count, (_, batch) in enumerate(ours.train_batches()):
        ours.step(batch)
        if count == 5:
            break

    plain = bench.session().setup
    for count, (inputs, labels) in enumerate(plain.train_loader):
        (F.cross_entropy(plain.model(inputs), labels) / 2).backward()
        if count % 2:
            nn.utils.clip_grad_norm_(plain.model.parameters(), 0.1)
            plain.optimizer.step()
            plain.optimizer.zero_grad()
            plain.scheduler.step()
        if count == 5:
            break

    assert all(torch.equal(a, b) for a, b in zip(ours.model.parameters(), plain.model.parameters(), strict=True))
    assert ours.learning_rates() == tuple(g["lr"] for g in plain.optimizer.param_groups)


def test_lbfgs_gets_its_closure(make_bench: Any) -> None:
    made = make_bench(classifier(optimizer=torch.optim.LBFGS, lr=0.1)).session()
    batch = made.first_batch()
    first = made.step(batch)

    assert made.step(batch) < first


def test_parts_in_eval_mode_stay_there(make_bench: Any) -> None:
    """A frozen BatchNorm that the user put into eval mode is not woken, by a step or by validating."""

    def model() -> nn.Module:
        network = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
        network[1].eval()
        return network

    def setup() -> dict[str, Any]:
        made = classifier(model)()
        return {**made, "val_loader": made["train_loader"]}

    made = make_bench(setup).session()
    made.step(made.first_batch())
    made.validate()

    assert made.model.training
    assert not made.model[1].training


def test_a_plateau_scheduler_is_told_the_training_loss(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        made = classifier()()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(made["optimizer"], patience=0)
        return {**made, "train_loader": list(made["train_loader"])[:4], "scheduler": scheduler}

    made = make_bench(setup).session()
    for count, (_, batch) in enumerate(made.train_batches()):
        made.step(batch)
        if count == 30:
            break

    assert made.learning_rates() == (1e-2,), "the loss falls, so the rate stays"
    assert math.isfinite(made.setup.scheduler.best)


def test_without_any_way_to_train_a_step_is_a_skip(make_bench: Any) -> None:
    made = session(make_bench, optimizer=None)

    with pytest.raises(Skip, match="'optimizer'"):
        made.step(made.first_batch())


def test_a_snapshot_brings_everything_back(make_bench: Any) -> None:
    made = session(make_bench)
    batch = made.first_batch()
    made.step(batch)
    snapshot = made.snapshot()
    kept = [p.detach().clone() for p in made.model.parameters()]
    moments = made.setup.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    for _ in range(3):
        made.step(batch)
    made.model.eval()
    made.restore(snapshot)

    assert all(torch.equal(a, b) for a, b in zip(kept, made.model.parameters(), strict=True))
    assert torch.equal(made.setup.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    assert made.model.training


def test_a_batch_that_the_model_does_not_take_is_told_with_the_key_that_is_missing(make_bench: Any) -> None:
    session = make_bench(classifier(loss_fn=None)).session()

    with pytest.raises(UserCodeError) as raised:
        session.loss(session.first_batch())

    assert "neither 'loss_fn' nor 'compute_loss' is given" in raised.value.stage
