from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stabcheck import recording, worker
from stabcheck.protocol import Message, Request, Surroundings, allowance
from stabcheck.trial.nursery import Nursery

TARGET = """
import torch
from torch import nn

calls = []

def setup(rate: float = 0.1, **more):
    calls.append(torch.rand(1).item())
    model = nn.Linear(2, 1)
    batches = [(torch.rand(4, 2), torch.rand(4, 1)) for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return {"model": model, "train_loader": batches, "loss_fn": nn.MSELoss(), "optimizer": optimizer, **more}

def without_optimizer():
    return setup(optimizer=None)

class Endless:
    def __iter__(self):
        while True:
            yield torch.rand(4, 2), torch.rand(4, 1)

    def __len__(self):
        raise RuntimeError

def endless():
    return setup(train_loader=Endless())

def ends_training():
    made = setup()
    def train_step(batch):
        raise KeyboardInterrupt
    return {**made, "train_step": train_step}

def leaves_gradients_off():
    made = setup()
    def validate():
        torch.set_grad_enabled(False)
    return {**made, "validate": validate}
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file = tmp_path / "worker_target.py"
    file.write_text(TARGET)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "worker_target", raising=False)
    return str(file)


def request(target: str, **changes: Any) -> Request:
    given: dict[str, Any] = {
        "arguments": {}, "checks": (), "trial": "stabcheck.trial.recorder:record_trial", "recording": None, "seed": 0,
        "steps": 4, "device": None, "budget": 60.0, "left": 60.0, "reloading": False, "check_timeout": 60.0, "thresholds": {},
        "surroundings": Surroundings(os.getcwd(), (), {}, ""),
    }  # fmt: skip
    return Request(target=target, **{**given, **changes})


@pytest.fixture
def messages(nursery: Nursery, tmp_path: Path) -> Iterator[Any]:
    def run(request: Request, *, contained: bool = True) -> list[Message]:
        told: list[Message] = []
        tell = lambda stage, fraction, detail: told.append({"type": "progress", "stage": stage})  # noqa: E731
        return [*worker.work(request, tell, nursery, tmp_path / "scratch", contained=contained), *told]

    yield run
    nursery.deadline = float("inf")


def types(messages: list[Message]) -> list[str]:
    return [message["type"] for message in messages if message["type"] != "progress"]


def of(messages: list[Message], kind: str) -> Message:
    return next(message for message in messages if message["type"] == kind)


def results(messages: list[Message]) -> dict[str, Any]:
    return {m["result"]["id"]: m["result"] for m in messages if m["type"] == "result"}


def test_loads_records_and_checks(target: str, messages: Any) -> None:
    heard = messages(request(f"{target}:setup", checks=("tests.simple_checks:READS", "tests.simple_checks:TRAINS")))

    assert types(heard) == ["started", "loaded", "started", "recorded", "started", "result", "started", "result"]
    assert [m["stage"] for m in heard if m["type"] == "started"] == ["load", "trial", "reads", "trains"]
    assert results(heard)["reads"]["summary"] == "4 losses"
    assert len(recording.from_json(of(heard, "recorded")["recording"]).losses) == 4


def test_facts(target: str, messages: Any) -> None:
    facts = of(messages(request(f"{target}:setup", trial=None)), "loaded")["facts"]

    assert facts == {
        "model": "Linear", "parameters": 3, "trainable": 3, "keys": ["model", "train_loader", "loss_fn", "optimizer"],
        "train_batches": 3, "val_batches": None, "optimizer": "SGD", "scheduler": None, "device": "cpu",
        "torch": torch.__version__, "entry": (target, 7),
    }  # fmt: skip


def test_length_that_raises_is_not_known(target: str, messages: Any) -> None:
    assert of(messages(request(f"{target}:endless")), "loaded")["facts"]["train_batches"] is None


def test_first_set_up_is_the_one_that_is_trained(target: str, messages: Any) -> None:
    """Building it may take minutes."""
    messages(request(f"{target}:setup", trial=None, checks=("tests.simple_checks:TRAINS",)))

    assert len(sys.modules["worker_target"].calls) == 1


def test_every_set_up_starts_from_the_same_seed(target: str, messages: Any) -> None:
    heard = messages(request(f"{target}:setup", checks=("tests.simple_checks:TRAINS", "tests.simple_checks:VALIDATES")))

    draws = sys.modules["worker_target"].calls
    assert len(draws) >= 3
    assert len(set(draws)) == 1
    recorded = recording.from_json(of(heard, "recorded")["recording"])
    assert results(heard)["trains"]["measurements"]["losses"][:4] == list(recorded.losses)


def test_argument_reaches_the_function(target: str, messages: Any) -> None:
    heard = messages(request(f"{target}:setup", arguments={"rate": "0.5"}))

    assert recording.from_json(of(heard, "recorded")["recording"]).steps[0].lr == (0.5,)


def test_recording_of_an_earlier_worker_is_taken_over(target: str, messages: Any) -> None:
    first = of(messages(request(f"{target}:setup", steps=3)), "recorded")["recording"]

    heard = messages(request(f"{target}:setup", trial=None, recording=first, checks=("tests.simple_checks:READS",)))

    assert types(heard) == ["started", "loaded", "started", "result"]
    assert results(heard)["reads"]["summary"] == "3 losses"


def test_without_a_way_to_train_what_needs_the_trial_is_left_out(target: str, messages: Any) -> None:
    heard = messages(
        request(f"{target}:without_optimizer", checks=("tests.simple_checks:READS", "tests.simple_checks:LOOKS"))
    )

    assert of(heard, "failed")["skip_reason"].startswith("no optimizer given")
    assert list(results(heard)) == ["looks"]


def test_failed_load_is_the_end(target: str, messages: Any) -> None:
    heard = messages(request(f"{target}:stup", checks=("tests.simple_checks:LOOKS",)))

    assert types(heard) == ["started", "failed"]
    assert heard[1]["stage"] == "load"
    assert heard[1]["error"]["message"] == f"{target} has no function 'stup' (did you mean 'setup'?)"
    assert (heard[1]["error"]["blame"], heard[1]["error"]["stage"]) == ("target", "TARGET")


@pytest.mark.parametrize("device", ["cuda:77", "quantum"])
def test_device_that_is_not_there(target: str, messages: Any, device: str) -> None:
    error = of(messages(request(f"{target}:setup", device=device)), "failed")["error"]

    assert error["message"].startswith(f"--device {device}: not to be had here (")


def test_device_that_is_there(target: str, messages: Any) -> None:
    assert of(messages(request(f"{target}:setup", device="cpu", trial=None)), "loaded")["facts"]["device"] == "cpu"


def test_interrupt_of_the_target_is_an_error_only_where_nobody_can_press_ctrl_c(target: str, messages: Any) -> None:
    wanted = request(f"{target}:ends_training", checks=("tests.simple_checks:LOOKS",))

    assert of(messages(wanted), "failed")["error"]["message"].startswith("raised KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        messages(wanted, contained=False)


def test_bug_of_ours_is_said_to_be_ours(target: str, messages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stabcheck.trial.recorder.record_trial", lambda *_, **__: {}["ours"])
    monkeypatch.setattr("stabcheck.userland._OURS", os.path.dirname(__file__) + os.sep)

    assert of(messages(request(f"{target}:setup")), "failed")["error"]["blame"] == "stabcheck"


def test_every_check_starts_from_the_state_after_loading(target: str, messages: Any) -> None:
    checks = ("tests.simple_checks:VALIDATES", "tests.simple_checks:TRAINS")

    heard = messages(request(f"{target}:leaves_gradients_off", checks=checks))

    assert {name: result["status"] for name, result in results(heard).items()} == {
        "validates": "pass",
        "trains": "pass",
    }
    torch.set_grad_enabled(True)


def test_what_does_not_fit_the_budget_is_skipped(target: str, messages: Any) -> None:
    checks = ("tests.simple_checks:SLEEPS", "tests.simple_checks:LOOKS")

    heard = messages(request(f"{target}:setup", trial=None, checks=checks, budget=0.2, left=0.2))

    assert results(heard)["sleeps"]["status"] == "pass"
    assert results(heard)["looks"]["skip_reason"] == "did not fit --budget 0.2 s"


def test_progress_names_the_check(target: str, messages: Any) -> None:
    heard = messages(request(f"{target}:setup", trial=None, checks=("tests.simple_checks:TELLS",)))

    assert of(heard, "progress")["stage"] == "tells"


@pytest.mark.parametrize(
    ("stage", "left", "soft", "hard", "by_budget"),
    [
        ("trial", 120, 48, 72, False),
        ("check", 120, 60, 90, False),
        ("check", 70, 60, 82, True),
        ("check", 30, 30, 42, True),
    ],
)
def test_allowance(stage: str, left: float, soft: float, hard: float, by_budget: bool) -> None:
    allowed = allowance(stage, 120, 90, left)

    assert (allowed.soft, allowed.hard, allowed.by_budget) == (pytest.approx(soft), hard, by_budget)
