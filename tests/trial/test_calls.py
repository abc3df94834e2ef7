from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.check import Skip
from stabcheck.trial.bench import Bench
from stabcheck.trial.calls import watched_call
from stabcheck.trial.modes import held_by, kept_modes
from tests.setups import classifier, mlp


def test_the_call_gives_the_same_output_again(make_bench: Callable[..., Bench]) -> None:
    session = make_bench(classifier()).session()
    call = watched_call(session, session.first_batch())
    assert torch.equal(call.again(*call.args, **call.kwargs), call.output)
    assert call.calls == 1
    assert call.loss.requires_grad


def test_a_call_inside_compute_loss_is_seen(make_bench: Callable[..., Bench]) -> None:
    def compute_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(input=batch[0]) + model(batch[0]), batch[1])

    session = make_bench(classifier(compute_loss=compute_loss, loss_fn=None)).session()
    batch = session.first_batch()
    call = watched_call(session, batch)
    assert call.kwargs["input"] is batch[0]
    assert call.calls == 2


def test_a_loss_without_the_model_is_a_skip(make_bench: Callable[..., Bench]) -> None:
    def compute_loss(model: nn.Sequential, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model[2](model[1](model[0](batch[0]))), batch[1])

    session = make_bench(classifier(lambda: mlp(depth=1), compute_loss=compute_loss, loss_fn=None)).session()
    with pytest.raises(Skip, match="without calling the model"):
        watched_call(session, session.first_batch())


def test_modes_come_back_one_by_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    with kept_modes(model):
        model.eval()
    assert [m.training for m in model.modules()] == [True, True, False]


def test_optimizers_hold_their_parameters() -> None:
    model = nn.Linear(2, 2)
    assert held_by(torch.optim.SGD([model.weight]), None) == {id(model.weight)}
