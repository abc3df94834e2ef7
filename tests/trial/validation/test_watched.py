"""Observing a validation: it changes nothing, and sees what runs."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from stabcheck.setup import as_setup
from stabcheck.trial.session import Session
from stabcheck.trial.validation.forward_watch import ForwardWatch
from stabcheck.trial.validation.loader_watch import LoaderWatch
from stabcheck.trial.validation.mode_switches import beyond_eval, switch
from stabcheck.trial.validation.state_shot import StateShot
from stabcheck.trial.validation.watched import run
from tests.experiments.validation_cases import Attention, Hidden, Stubborn, careful, careless, setup


def hooks() -> tuple[Any, ...]:
    module = sys.modules["torch.nn.modules.module"]
    optimizer = sys.modules["torch.optim.optimizer"]
    return (
        len(module._global_forward_pre_hooks),
        len(module._global_forward_hooks),
        len(optimizer._global_optimizer_post_hooks),
        nn.Module.train,
        DataLoader.__iter__,
    )


@pytest.mark.parametrize("inner", [lambda: nn.Dropout(0.3), lambda: nn.BatchNorm1d(32), lambda: Attention(0.1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_observing_changes_neither_result_nor_model_nor_random_numbers(inner: Any, seed: int) -> None:
    def once(observed: bool) -> tuple[Any, dict[str, Any], torch.Tensor]:
        torch.manual_seed(seed)
        session = Session(as_setup(setup(inner, careless)))
        result = run(session).numbers[""] if observed else session.validate()
        return result, session.model.state_dict(), torch.get_rng_state()

    before = hooks()
    (a, model_a, rng_a), (b, model_b, rng_b) = once(True), once(False)
    assert hooks() == before
    assert a == b
    assert all(torch.equal(model_a[key], model_b[key]) for key in model_b)
    assert torch.equal(rng_a, rng_b)


def test_hooks_are_gone_after_a_validation_that_raises() -> None:
    def fails() -> None:
        raise RuntimeError

    before = hooks()
    session = Session(as_setup({**setup(nn.Identity), "validate": fails}))
    with pytest.raises(Exception, match="RuntimeError"):
        run(session)
    assert hooks() == before


def test_modules_are_seen_in_their_modes_by_path() -> None:
    session = Session(as_setup(setup(lambda: nn.Dropout(0.3), careful)))
    visits = {visit.path: visit for visit in run(session).visits}
    assert visits.keys() == {"", "first", "inner", "last"}
    assert (visits["inner"].training, visits["inner"].evaluating) == (0, 4)
    assert session.model.training


def test_forced_eval_mode_gives_what_eval_gives_and_puts_the_modes_back() -> None:
    session = Session(as_setup(setup(lambda: nn.Dropout(0.3), careless)))
    forced = run(session, force_eval=True)
    assert all(module.training for module in session.model.modules())
    session.model.eval()
    assert forced.numbers[""] == session.validate()


def test_models_beside_the_set_up_are_seen() -> None:
    parts = setup(nn.Identity)
    beside = copy.deepcopy(parts["model"])
    parts["validate"] = lambda: [beside(x) for x, _ in parts["val_loader"]] and None
    seen = run(Session(as_setup(parts)))
    assert {visit.of_model for visit in seen.visits} == {False}
    assert {visit.path for visit in seen.visits} == {"", "first", "inner", "last"}
    assert seen.forwards == seen.with_gradients == 4


@pytest.mark.parametrize("keep", [True, False])
def test_graphs_are_counted_while_they_live(keep: bool) -> None:
    model, losses = nn.Linear(4, 1), []
    with ForwardWatch(model) as watch:
        for _ in range(6):
            loss = model(torch.randn(2, 4)).sum()
            losses.append(loss if keep else loss.item())
            del loss
    assert watch.graphs_alive == (5 if keep else 0)


def test_functions_that_drop_in_eval_mode_are_seen_and_others_not() -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.dropout(F.dropout(F.dropout(x, 0.1, False), 0.0), 0.25)
            x = F.alpha_dropout(F.rrelu(x))
            x = F.feature_alpha_dropout(x, 0.125, training=True)
            return x + torch.rand_like(x)

    model = Mixed().eval()
    with ForwardWatch(model) as watch:
        model(torch.randn(2, 3, 4))
        model(torch.randn(2, 3, 4))
    seen = {activity.name: (activity.strength, activity.count) for activity in watch.activities.values()}
    assert seen == {"dropout": (0.25, 2), "feature_alpha_dropout": (0.125, 2)}
    model.train()
    with ForwardWatch(model) as watch:
        model(torch.randn(2, 3, 4))
    assert watch.activities == {}
    assert next(iter(watch.visits.values())).drops


def test_vmap_and_compiled_models_run_under_observation() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    compiled = torch.compile(model, backend="eager")
    with ForwardWatch(model) as watch:
        torch.func.vmap(model, randomness="different")(torch.randn(3, 2, 4))
        compiled(torch.randn(2, 4))
    assert {visit.path for visit in watch.visits.values()} >= {"", "0", "1"}
    assert watch.visits[id(model[1])].training == 2


def test_samples_are_counted_by_loader() -> None:
    given = as_setup(setup(nn.Identity))
    other = DataLoader(torch.zeros(5))
    watch = LoaderWatch(given)
    with watch:
        for loader in (given.val_loader, given.val_loader, other):
            for _ in loader:
                pass
        next(iter(given.train_loader))
    assert watch.samples == {"val_loader": 256, "other": 5, "train_loader": 32}
    assert watch.tells_apart


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Dropout(0.1), "dropout"),
        (nn.Dropout(0.0), None),
        (nn.BatchNorm2d(3), "statistics"),
        (nn.BatchNorm2d(3, track_running_stats=False), None),
        (nn.InstanceNorm2d(3), None),
        (nn.InstanceNorm2d(3, track_running_stats=True), "statistics"),
        (nn.LSTM(2, 2, 2, dropout=0.1), "dropout"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "dropout"),
        (nn.MultiheadAttention(4, 2), None),
        (nn.TransformerEncoderLayer(4, 2, 4), None),
        (nn.LayerNorm(3), None),
        (Hidden(), None),
    ],
)
def test_what_the_mode_switches(module: nn.Module, expected: str | None) -> None:
    assert switch(module) == expected


def test_code_that_reads_the_mode_is_known_wherever_it_reads_it() -> None:
    class Helper(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._noisy(x)

        def _noisy(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.randn_like(x) if self.training else x

    class Inherits(Helper):
        pass

    assert switch(Inherits()) == "custom"


def test_why_eval_does_not_reach_a_module() -> None:
    ordinary, hidden, stubborn = nn.Sequential(nn.Dropout()), Hidden(), Stubborn()
    assert beyond_eval(ordinary, ordinary[0]) is None
    assert ordinary.training
    reason = beyond_eval(hidden, hidden.layers[0])
    assert reason is not None
    assert "outside the module tree" in reason[0]
    reason = beyond_eval(nn.Sequential(stubborn), stubborn.drop)
    assert reason is not None
    assert reason[0].startswith("Stubborn.train()")
    assert reason[1] is not None
    assert reason[1][0].endswith("validation_cases.py")


def test_changes_between_two_shots() -> None:
    session = Session(as_setup(setup(lambda: nn.BatchNorm1d(32), careful)))
    model, optimizer = session.model, session.setup.optimizer
    session.step(session.first_batch())
    before = StateShot.of(session)
    same = before.changes(StateShot.of(session), 1e-6)
    assert not any((same.parameters, same.buffers, same.gradients, same.optimizer, same.modes, same.frozen))
    with torch.no_grad():
        model.last.weight.mul_(1.01)
        model.first.bias.mul_(1 + 1e-7)
        model.inner.running_mean.add_(1.0)
    model.first.weight.grad = torch.ones_like(model.first.weight)
    model.last.weight.grad = None
    optimizer.state[model.last.weight]["exp_avg"].add_(1.0)
    model.inner.eval()
    model.first.bias.requires_grad_(False)
    after = before.changes(StateShot.of(session), 1e-6)
    assert after.parameters == {"last.weight": pytest.approx(0.01, rel=1e-3)}
    assert after.buffers.keys() == {"inner.running_mean"}
    assert after.gradients == ("first.weight",)
    assert after.optimizer == ("exp_avg",)
    assert after.modes == ("inner",)
    assert after.frozen == ("first.bias",)
