from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch._dynamo  # as in the worker, before a process is parked
from torch import nn
from torch.nn import functional as F

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.checkpoint_resume import CHECK
from stabcheck.loading import load_entry
from stabcheck.trial.bench import Bench
from stabcheck.trial.nursery import Nursery
from stabcheck.userland import UserCodeError

HERE = Path(__file__).parent
CASES, ODDITIES = HERE / "resume_cases.py", HERE / "resume_oddities.py"
_NAMES = re.findall(r"^def (\w+)\(", ODDITIES.read_text(), re.M)

BROKEN = {
    "broken_shadow_in_slots": "SC0406",
    "broken_velocity_by_id": "SC0406",
    "broken_velocity_by_parameter": "SC0406",
    "broken_counter_of_class": "SC0407",
    "broken_scale_filled_in_later": "SC0407",
    "broken_history_filled_in_later": "SC0407",
    "broken_shadow": "SC0406",
    "broken_shadow_restarted": "SC0406",
    "broken_hooked_average": "SC0406",
    "broken_teacher_behind_decorator": "SC0406",
    "broken_target_network": "SC0406",
    "broken_target_network_of_long_periods": "SC0406",
    "broken_critic": "SC0406",
    "broken_critic_optimizer": "SC0403",
    "broken_bound_anew_model_only": "SC0404",
    "broken_new_model_returned": "SC0401",
    "broken_epoch_schedule": "SC0405",
    "broken_rate_reset": "SC0405",
    "broken_counter_in_model": "SC0407",
    "broken_statistics_in_attribute": "SC0407",
    "broken_warm_up_by_hand": "SC0407",
    "broken_custom_schedule": "SC0407",
    "broken_slots": "SC0407",
    "broken_load_leaves_eval": "SC0407",
    "broken_save_leaves_eval": "SC0409",
    "broken_save_halves": "SC0409",
    "broken_refused_class": "SC0408",
    "broken_nothing_written": "SC0408",
    "broken_memory": "SC0408",
    "broken_unfreezing": "SC0408",
    "broken_generator": "SC0411",
    "broken_unseen": "SC0412",
    "broken_scaler": "SC0413",
}

NOTES = {
    "sound_unsteady": "does not repeat itself",
    "sound_second_loader": "running iterator unlabelled",
    "sound_carried_hidden_state": "model.hidden, carried over",
    "sound_elsewhere": "save() writes elsewhere",
    "sound_second_save_refused": "wrote nothing when it was called again",
    "sound_local_batches": "cannot be written to a file",
    "sound_short_cycle": "the planned run is too short",
}
"""What the report owns up to."""


@pytest.fixture
def judge(tmp_path: Path, nursery: Nursery) -> Callable[..., Outcome]:
    def judge(file: Path, function: str, **arguments: Any) -> Outcome:
        entry = load_entry(f"{file}:{function}", {key: str(value) for key, value in arguments.items()})
        return CHECK.run(Bench(entry=entry, seed=0, scratch=tmp_path, nursery=nursery))

    return judge


def codes(outcome: Outcome) -> list[str]:
    return [finding.code for finding in outcome.findings]


@pytest.mark.parametrize(
    ("model", "optim", "seed"), [("mlp", "adam", 0), ("cnn", "sgd", 1), ("lstm", "adam", 2), ("attention", "sgd", 3)]
)
def test_a_complete_checkpoint_resumes_bit_for_bit(judge, model, optim, seed):
    outcome = judge(CASES, "trainer" if seed == 1 else "setup", model=model, optim=optim, seed=seed)

    assert outcome.findings == ()
    assert [cut["bit_equal"] for cut in outcome.measurements["cuts"]] == [True, True]
    assert [cut["weight_drift"] for cut in outcome.measurements["cuts"]] == [0.0, 0.0]
    if seed != 1:  # the trainer keeps no random state
        assert outcome.measurements["cuts"][1]["next_batches"] == "exact"
        assert outcome.not_checked == ()


@pytest.mark.parametrize(
    ("fault", "code", "words", "model", "optim", "seed"),
    [
        ("optimizer", "SC0403", "there is none", "mlp", "adam", 0),
        ("optimizer", "SC0403", "there is none", "attention", "sgd", 1),
        ("adam step", "SC0403", "(step of", "cnn", "adam", 2),
        ("scheduler", "SC0405", "last_epoch is 0 instead of 8", "lstm", "sgd", 3),
        ("buffers", "SC0402", "running_mean", "attention", "adam", 4),
        ("buffers", "SC0402", "running_mean", "cnn", "sgd", 5),
        ("head", "SC0401", "2 of", "lstm", "adam", 6),
        ("half", "SC0401", "rounded", "attention", "sgd", 7),
        ("prefix", "SC0401", "what a new set-up starts with", "mlp", "sgd", 8),
        ("nothing", "SC0401", "what a new set-up starts with", "lstm", "sgd", 9),
        ("rate", "SC0407", "weight_decay is 0", "attention", "adam", 10),
        ("detached", "SC0404", "no longer holds", "mlp", "adam", 11),
        ("random", "SC0410", "random state", "cnn", "adam", 12),
    ],
)
def test_each_omission_is_named(judge, fault, code, words, model, optim, seed):
    """One finding for one omission, and nothing about what follows from it."""
    outcome = judge(CASES, "setup", fault=fault, model=model, optim=optim, seed=seed)

    assert codes(outcome) == [code]
    assert words in outcome.findings[0].message
    assert outcome.findings[0].evidence["cut"] == "mid-epoch"
    assert outcome.findings[0].location == {"head": "head", "buffers": "norm" if model == "attention" else "1"}.get(
        fault
    )


@pytest.mark.parametrize(
    ("fault", "code", "model", "seed"),
    [("optimizer", "SC0403", "cnn", 1), ("average", "SC0406", "lstm", 2), ("scheduler", "SC0405", "mlp", 3)],
)
def test_state_behind_methods_is_found(judge, fault, code, model, seed):
    """A trainer object whose methods are the callbacks; its list of losses and its counter are no state."""
    outcome = judge(CASES, "trainer", fault=fault, model=model, optim="sgd", seed=seed)

    assert codes(outcome) == [code]


def test_a_plain_checkpoint_without_random_state_is_sound_and_said_to_be_so(judge):
    outcome = judge(CASES, "setup", fault="rng")

    assert outcome.findings == ()
    assert [cut["next_batches"] for cut in outcome.measurements["cuts"]] == ["restarts", "restarts"]
    assert "the order of batches after a resume" in [note.what for note in outcome.not_checked]


@pytest.mark.parametrize("function", [name for name in _NAMES if name.startswith("sound_")])
def test_odd_but_sound(judge, function, tmp_path):
    where = {"where": tmp_path / "elsewhere.pt"} if function == "sound_elsewhere" else {}

    outcome = judge(ODDITIES, function, **where)

    assert outcome.findings == ()
    assert NOTES.get(function, "") in " ".join(note.why for note in outcome.not_checked)


@pytest.mark.parametrize("function", [name for name in _NAMES if name.startswith("broken_")])
def test_odd_and_broken(judge, function):
    assert codes(judge(ODDITIES, function)) == [BROKEN[function]]


def test_the_textbook_checkpoint_stands_in_and_the_report_says_so(judge):
    outcome = judge(CASES, "textbook", model="cnn")

    assert outcome.findings == ()
    assert "textbook" in outcome.summary
    assert [note.what for note in outcome.not_checked] == ["your own checkpoint"]


@pytest.mark.parametrize(("function", "code"), [("textbook_grown", "SC0408"), ("textbook_counter_in_model", "SC0407")])
def test_what_the_textbook_checkpoint_loses_is_a_warning(judge, function, code):
    outcome = judge(ODDITIES, function)

    assert [(finding.code, finding.severity) for finding in outcome.findings] == [(code, "warn")]


def test_the_class_that_torch_refuses_is_named(judge):
    (finding,) = judge(ODDITIES, "broken_refused_class").findings

    assert "argparse.Namespace" in finding.message
    assert finding.source is not None
    assert finding.source[0] == str(ODDITIES)


def test_drift_is_what_a_run_by_hand_gives(judge):
    """Momentum lost after 8 steps: the same two runs with nothing but torch."""
    outcome = judge(ODDITIES, "by_hand")
    setup = load_entry(f"{ODDITIES}:by_hand").build()
    model, batches = setup.model, setup.train_loader

    def train(optimizer: torch.optim.Optimizer, steps: range) -> torch.Tensor:
        for index in steps:
            x, y = batches[index]
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return nn.utils.parameters_to_vector(model.parameters()).detach().clone()

    saved = train(setup.optimizer, range(8))
    end = train(setup.optimizer, range(8, 12))
    nn.utils.vector_to_parameters(saved.clone(), model.parameters())
    resumed = train(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), range(8, 12))

    assert codes(outcome) == ["SC0403"]
    drift = outcome.measurements["cuts"][0]["weight_drift"]
    assert drift == pytest.approx(float((resumed - end).norm() / (end - saved).norm()), rel=1e-5)


def test_a_set_up_that_cannot_train_is_skipped(make_bench):
    bench = make_bench(lambda: {"model": nn.Linear(2, 1), "train_loader": [torch.zeros(3, 2)]})

    with pytest.raises(Skip, match="optimizer"):
        CHECK.run(bench)


def test_a_step_that_raises_is_the_users_error_and_no_finding(make_bench):
    def train_step(batch: Any) -> None:
        raise RuntimeError("bad step")

    bench = make_bench(
        lambda: {"model": nn.Linear(2, 1), "train_loader": [torch.zeros(3, 2)], "train_step": train_step}
    )

    with pytest.raises(UserCodeError, match="bad step"):
        CHECK.run(bench)


def test_no_time_is_a_skip(tmp_path, nursery):
    entry = load_entry(f"{CASES}:setup")
    bench = Bench(entry=entry, seed=0, scratch=tmp_path, nursery=nursery, deadline=0.0)

    with pytest.raises(Skip, match="budget"):
        CHECK.run(bench)
