from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.eval_mode import CHECK
from stabcheck.trial.disturbance import matters
from stabcheck.trial.modes import undisturbed, unseen_by_autograd
from stabcheck.trial.session import Session
from tests.setups import blobs

Look = Callable[[Session, Any], None]


def normed() -> dict[str, Any]:
    """A running sum of losses whose graph lives on until the fourth micro-batch."""
    x, y = blobs(256)
    model = nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept: dict[str, Any] = {"count": 0, "sum": 0}

    def train_step(batch: Any) -> torch.Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1])
        kept["sum"] = kept["sum"] + loss / 4
        kept["sum"].backward(retain_graph=True)
        kept["count"] += 1
        if kept["count"] % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
            kept["sum"] = 0
        return loss.detach()

    loaders = {
        key: DataLoader(TensorDataset(x, y), 32, shuffle=key.startswith("train"))
        for key in ("train_loader", "val_loader")
    }
    return {
        "model": model,
        **loaders,
        "loss_fn": F.cross_entropy,
        "optimizer": optimizer,
        "train_step": train_step,
        "accumulate_steps": 4,
    }


def scales_a_weight(session: Session, batch: Any) -> None:
    weight = session.model[3].weight
    with undisturbed(session.model), torch.no_grad():
        weight.mul_(2)


def looks_away(session: Session, batch: Any) -> None:
    """Forwards in training mode move the statistics of BatchNorm."""
    with undisturbed(session.model):
        session.loss(batch)


def disturbs(session: Session, batch: Any) -> None:
    assert matters(session, session.model[0].weight, batch, 0)


def goes_back(session: Session, batch: Any) -> None:
    session.restore(session.snapshot())


@pytest.mark.parametrize("look", [scales_a_weight, looks_away, disturbs, goes_back])
def test_a_graph_that_the_user_keeps_survives_what_is_put_back(make_bench: Any, look: Look) -> None:
    session, alike = (make_bench(normed).session() for _ in range(2))
    batch = session.first_batch()
    loss, same = session.loss(batch), alike.loss(batch)

    look(session, batch)
    loss.backward()
    same.backward()

    for one, other in zip(session.model.parameters(), alike.model.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one, other)
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


def test_what_is_not_put_back_is_still_seen() -> None:
    """The control: without the context autograd refuses, as it does for a user's own mistake."""

    @contextmanager
    def plain(tensors: Any) -> Iterator[None]:
        yield

    for context, refused in ((plain, True), (unseen_by_autograd, False)):
        weight = nn.Parameter(torch.ones(3))
        loss = (weight * weight.exp()).sum()
        with context([weight]), torch.no_grad():
            weight.mul_(2)
            weight.div_(2)
        if refused:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        else:
            loss.backward()
            torch.testing.assert_close(weight.grad, 2 * torch.ones(3).exp())


def test_weights_without_a_shape_or_a_count_of_writes_are_let_be() -> None:
    with torch.inference_mode():
        frozen = torch.ones(3)
    with unseen_by_autograd([nn.LazyLinear(3).weight, frozen]), torch.inference_mode():
        frozen.mul_(2)

    assert frozen.tolist() == [2.0] * 3


@pytest.mark.parametrize("seed", range(3))
def test_eval_mode_trains_on_with_a_running_sum_of_losses(make_bench: Any, seed: int) -> None:
    outcome = CHECK.run(make_bench(normed, seed=seed))

    assert not [finding for finding in outcome.findings if finding.severity == "fail"]
