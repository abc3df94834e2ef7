from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stabcheck.setup import as_setup
from stabcheck.trial.resume.walk import look
from stabcheck.trial.rng import rng_state
from stabcheck.trial.session import Session

counter = {"calls": 3}


@dataclasses.dataclass(slots=True)
class Position:
    step: int = 7


class Trainer:
    def __init__(self) -> None:
        self.average, self.step = nn.Linear(2, 1), 4

    def run(self, batch: Any) -> None:
        self.step += 1


def helper() -> int:
    return counter["calls"]


def session(train_step: Any, **keys: Any) -> Session:
    model = keys.pop("model", None) or nn.Linear(2, 1)
    return Session(as_setup({"model": model, "train_loader": [torch.zeros(3, 2)], "train_step": train_step, **keys}))


def kinds(found: Any) -> dict[str, str]:
    return {path: leaf.kind for path, leaf in found.leaves.items() if leaf.kind != "mode"}


def test_closures_containers_globals_and_dataclasses_are_walked():
    average, state, position = nn.Linear(2, 1), {"step": 5, "ema": [torch.zeros(2)]}, Position()
    noise, unlabelled = np.random.default_rng(0), iter([1, 2])

    def train_step(batch: Any) -> Any:
        return average, state, position, helper(), noise, unlabelled

    found = look(session(train_step))

    assert found.leaves["average.weight"].kind == "module"
    assert found.leaves["state['step']"].value == 5
    assert found.leaves["state['ema'][0]"].part == "state['ema']"
    assert found.leaves["position.step"].value == 7
    assert found.leaves["counter['calls']"].value == 3
    assert list(found.generators) == ["noise"]
    assert found.iterators == ["unlabelled"]


@pytest.mark.parametrize("wrap", [lambda run: run, functools.partial, torch.no_grad(), lambda run: lambda b: run(b)])
def test_methods_and_what_wraps_them_lead_to_their_object(wrap):
    found = look(session(wrap(Trainer().run)))

    assert found.leaves["Trainer.average.weight"].kind == "module"
    assert found.leaves["Trainer.step"].value == 4


def test_optimizer_state_is_named_by_parameter():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()

    found = kinds(look(session(None, model=model, optimizer=optimizer, scheduler=scheduler)))

    assert found["model.weight"] == "weight"
    assert found["optimizer.state[weight].exp_avg"] == "moment"
    assert found["optimizer.holds[bias]"] == "held"
    assert found["optimizer.param_groups[0].lr"] == "option"
    assert found["scheduler.last_epoch"] == "schedule"
    assert "scheduler._step_count" not in found


def test_buffers_are_told_apart_by_what_a_state_dict_holds():
    model = nn.BatchNorm1d(2)
    model.register_buffer("cache", torch.zeros(2), persistent=False)
    model.plain = torch.zeros(2)

    found = kinds(look(session(lambda batch: None, model=model)))

    assert found["model.running_mean"] == "buffer"
    assert found["model.cache"] == found["model.plain"] == "tensor"


def test_values_can_be_put_where_they_were_found():
    step, state, average = 1, {"step": 1}, torch.zeros(2)

    def train_step(batch: Any) -> Any:
        return step, state, average

    found = look(session(train_step))
    found.slots["step"].put(8)
    found.slots["state['step']"].put(9)
    found.slots["average"].put(torch.ones(2))

    assert (step, state, average.tolist()) == (8, {"step": 9}, [1.0, 1.0])


def test_looking_changes_nothing_and_finds_the_same_twice():
    trainer = Trainer()
    live = session(trainer.run, model=nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2)))
    before = rng_state().torch_state

    first, second = look(live), look(live)

    assert rng_state().torch_state.equal(before)
    assert list(first.leaves) == list(second.leaves)
    assert all(not p.grad_fn and p.grad is None for p in live.model.parameters())


def test_long_logs_are_not_walked():
    history = [0.0] * 5000

    def train_step(batch: Any) -> Any:
        return history

    found = look(session(train_step))

    assert found.leaves["history.length"].value == 5000
    assert "history[0]" not in found.leaves
