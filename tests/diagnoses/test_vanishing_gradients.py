from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Skip
from stabcheck.diagnoses.vanishing_gradients import CHECK
from stabcheck.reading import neck
from stabcheck.recording import Recurrence, Yardsticks
from stabcheck.trial.recorder import record_trial
from tests.diagnoses.recordings import falling, flat, parameter, recording, signal, steps
from tests.setups import classifier, mlp

STALLED = steps(flat())
STARVED = (signal("0", 1e-6), signal("2", 1e-6), signal("4", 1.0))


def codes(made: Any) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in CHECK.run(made).findings]


def test_a_starved_stack_that_learns_nothing_fails() -> None:
    outcome = CHECK.run(recording(signals=STARVED, steps=STALLED))

    (finding,) = outcome.findings
    assert (finding.code, finding.severity, finding.location) == ("SC0701", "fail", "2")
    assert finding.evidence["neck"] == pytest.approx(math.log(1e-6))


def test_a_starved_stack_that_learns_is_left_alone() -> None:
    assert codes(recording(signals=STARVED, steps=steps(falling()))) == []


def test_a_starved_branch_is_no_neck() -> None:
    """A layer without gradient is harmless if one before it still has its share: a gate, q and k, a zero-init branch."""
    assert codes(recording(signals=(signal("0", 1.0), signal("2", 1e-9), signal("4", 1.0)), steps=STALLED)) == []


def test_an_infinite_gradient_is_no_neck_of_its_own() -> None:
    infinite = (math.inf,) * 10
    rows = (
        replace(signal("0"), grad_norm=infinite),
        signal("2"),
        signal("3"),
        replace(signal("4"), grad_norm=infinite),
    )
    found = neck(recording(signals=rows), 9)

    assert found is not None
    assert math.isfinite(found.depth)


def test_scaling_the_loss_moves_no_neck() -> None:
    small = tuple(signal(s.module, s.grad_norm[-1] * 1e-12) for s in STARVED)

    assert neck(recording(signals=small), 9).depth == pytest.approx(neck(recording(signals=STARVED), 9).depth, abs=1e-6)


def test_an_output_that_ignores_the_input_fails() -> None:
    signals = (signal("0"), signal("2", share=1e-3), signal("4", share=1e-6))

    assert codes(recording(signals=signals, steps=STALLED)) == [("SC0702", "fail")]


def test_language_models_get_the_wider_margin() -> None:
    signals = (signal("0"), signal("2", share=5e-3), signal("4", share=3e-5))

    assert codes(recording(signals=signals, steps=STALLED, tokens=True)) == []
    assert codes(recording(signals=signals, steps=STALLED)) == [("SC0702", "fail")]


def test_a_layer_that_loses_the_input_at_once_is_named() -> None:
    signals = (signal("emb"), signal("att", share=1e-12), signal("out", share=1e-12))
    (finding,) = CHECK.run(recording(signals=signals, steps=STALLED)).findings

    assert (finding.code, finding.location, finding.evidence["before"]) == ("SC0705", "att", "emb")


def test_a_code_that_the_model_chooses_may_be_the_same_for_all_inputs_at_first() -> None:
    signals = (signal("encoder"), signal("codes", share=1e-12), signal("decoder", share=1e-12))
    chosen = tuple(replace(s, kind="Embedding") if s.module == "codes" else s for s in signals)

    assert codes(recording(signals=signals, steps=STALLED)) == [("SC0705", "fail")]
    assert codes(recording(signals=chosen, steps=STALLED)) == []
    assert codes(recording(signals=chosen[1:], steps=STALLED)) == [("SC0705", "fail")]  # a table of what comes in


def test_a_signal_that_was_there_at_the_start_was_killed() -> None:
    signals = tuple(signal(m, g, at_start=1.0) for m, g in (("0", 1e-7), ("2", 1e-7), ("4", 1.0)))

    giant = (parameter(update_norm=(8.0,) + (0.1,) * 9),)
    assert codes(recording(signals=signals, steps=STALLED, parameters=giant)) == [("SC0703", "fail")]
    # Steps that changed no weight by much leave a model on a plateau, as CTC's or a language model's first one.
    assert codes(recording(signals=signals, steps=STALLED)) == []


def test_equal_weights_are_named_as_the_cause() -> None:
    zero = parameter("0.weight", constant_at_start=True, zero_at_start=True)
    (finding,) = CHECK.run(recording(signals=STARVED, steps=STALLED, parameters=(zero,))).findings

    assert "0.weight" in finding.fix


@pytest.mark.parametrize(("first", "expected"), [(-18.0, [("SC0704", "warn")]), (-9.9, [])])
def test_memory_of_a_recurrence(first: float, expected: list[tuple[str, str]]) -> None:
    profile = tuple(first * (1 - t / 19) for t in range(20))
    made = recording(recurrences=(Recurrence("rnn", "RNN", profile),), steps=STALLED)

    assert codes(made) == expected


def test_one_layer_has_no_way_to_vanish_along() -> None:
    with pytest.raises(Skip, match="layer"):
        CHECK.run(recording(signals=()))


def test_the_neck_is_the_slow_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        values = torch.exp(6 * torch.randn(7, generator=generator)).tolist()
        made = recording(signals=tuple(signal(str(i), g) for i, g in enumerate(values)))
        slow = min(
            max(math.log(g) for g in values[: i + 1]) - max(math.log(g) for g in values[i:]) for i in range(len(values))
        )

        assert neck(made, 9).depth == pytest.approx(slow)


class Norm(nn.Module):
    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.inp, self.out = nn.Linear(16, 24), nn.Linear(24, 4)
        self.blocks = nn.ModuleList([nn.Linear(24, 24) for _ in range(24)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inp(x)
        for block in self.blocks:
            h = h + torch.sigmoid(block(h)) - 0.5 if self.skip else torch.sigmoid(block(h))
        return self.out(h)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_deep_sigmoids_fail_and_their_residual_twin_passes(make_bench: Any, seed: int, optimizer: Any) -> None:
    results = []
    for skip in (False, True):
        setup = classifier(lambda skip=skip: Norm(skip=skip), optimizer=optimizer, lr=1e-2)
        results.append([f.code for f in CHECK.run(record_trial(make_bench(setup, seed=seed), steps=40)).findings])

    assert results == [["SC0701"], []]


@pytest.mark.parametrize("seed", range(4))
def test_zero_initialised_head_and_lora_are_healthy(make_bench: Any, seed: int) -> None:
    class Lora(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.head = mlp(), nn.Linear(4, 4)
            self.base.requires_grad_(False)
            self.down, self.up = nn.Linear(16, 8, bias=False), nn.Linear(8, 4, bias=False)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.head.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.base(x) + self.up(self.down(x)))

    outcome = CHECK.run(record_trial(make_bench(classifier(Lora), seed=seed), steps=40))

    assert outcome.findings == ()


def test_losses_far_above_a_constant_guess_have_another_cause_than_starved_layers() -> None:
    """Saturated by a few samples far off, whose losses come and go."""
    spiky = steps([9.0, 2000.0] * 20)
    high = steps([50.0 * loss for loss in flat()])

    assert codes(recording(signals=STARVED, steps=STALLED)) == [("SC0701", "fail")]
    assert codes(recording(signals=STARVED, steps=high)) == []
    assert codes(recording(signals=STARVED, steps=spiky, yardsticks=Yardsticks(9.0, 3000.0, 0.0))) == []


def test_nothing_is_lost_where_the_best_constant_outputs_are_the_best_there_are() -> None:
    signals = (signal("0"), signal("2", share=1e-9), signal("4", share=1e-9))
    downwards = steps(falling(2.8, -9.9))
    levels = Yardsticks(-10.16212, 2.8, -10.16213)

    assert CHECK.run(recording(steps=downwards, signals=signals, yardsticks=levels)).findings == ()
    stuck = recording(steps=steps(flat(2.3)), signals=signals)
    assert [f.code for f in CHECK.run(stuck).findings] == ["SC0705"]


@pytest.mark.parametrize(
    ("slope", "length", "expected"),
    [(1.9, 30, ["SC0706"]), (1.9, 80, ["SC0706"]), (1.9, 14, []), (0.7, 30, []), (0.7, 100, []), (0.0, 40, [])],
)
def test_a_loop_that_takes_three_quarters_of_the_gradient_at_each_step_fails(
    slope: float, length: int, expected: list[str]
) -> None:
    profile = tuple(max(-slope * back, -100.0) for back in reversed(range(length)))
    made = recording(steps=STALLED, recurrences=(Recurrence("cell", "Linear", profile, by_hand=True),))

    assert [f.code for f in CHECK.run(made).findings] == expected
    assert CHECK.run(replace(made, steps=steps(falling()))).findings == ()


def test_inputs_that_are_not_connected_are_no_fading() -> None:
    profile = (-100.0,) * 20 + (-1.0,) * 10
    made = recording(steps=STALLED, recurrences=(Recurrence("cell", "Linear", profile, by_hand=True),))

    assert CHECK.run(made).findings == ()


class Loop(nn.Module):
    """A recurrence written by hand, over the features of a sample one by one."""

    def __init__(self, squash: Any) -> None:
        super().__init__()
        self.inwards, self.onwards, self.out = nn.Linear(1, 24), nn.Linear(24, 24), nn.Linear(24, 4)
        self.squash, self.states = squash, list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(len(x), 24)
        self.states.clear()
        for t in range(x.shape[1]):
            summed = self.onwards(state)
            self.states.append(summed)
            state = self.squash(self.inwards(x[:, t : t + 1]) + summed)
        return self.out(state)


class Bare(Loop):
    """The same with parameters of its own."""

    def __init__(self, squash: Any) -> None:
        super().__init__(squash)
        self.inwards, self.onwards = (nn.Parameter(layer.weight.data.T) for layer in (self.inwards, self.onwards))  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(len(x), 24)
        self.states.clear()
        for t in range(x.shape[1]):
            summed = state @ self.onwards
            self.states.append(summed)
            state = self.squash(x[:, t : t + 1] @ self.inwards + summed)
        return self.out(state)


def looping(squash: Any, kind: Any = Loop) -> Any:
    def setup() -> dict[str, Any]:
        keys = classifier(lambda: kind(squash))()
        generator = torch.Generator().manual_seed(0)
        inputs, labels = torch.randn(512, 40, generator=generator), torch.randint(0, 4, (512,), generator=generator)
        return {**keys, "train_loader": DataLoader(TensorDataset(inputs, labels), batch_size=64, shuffle=True)}

    return setup


@pytest.mark.parametrize("kind", [Loop, Bare])
@pytest.mark.parametrize(("squash", "expected"), [(torch.sigmoid, ["SC0706"]), (torch.tanh, [])])
def test_recurrences_written_by_hand_are_followed(squash: Any, expected: list[str], kind: Any, make_bench: Any) -> None:
    made = record_trial(make_bench(looping(squash, kind)), steps=40)

    assert {r.module for r in made.recurrences} == {"inwards", "onwards"}
    assert [f.code for f in CHECK.run(made).findings] == expected


@pytest.mark.parametrize("kind", [Loop, Bare])
def test_the_gradient_at_each_call_is_that_of_autograd(kind: Any, make_bench: Any) -> None:
    bench = make_bench(looping(torch.tanh, kind))
    made = record_trial(bench, steps=1)
    session = bench.session()
    batch = session.first_batch()
    if kind is Bare:  # it is read after the trial
        session.step(batch)
    loss = session.loss(batch)
    expected = [g.norm().log() for g in torch.autograd.grad(loss, session.model.states)]

    found = next(r.at_end for r in made.recurrences if r.module == "onwards")
    assert found == pytest.approx([float(e) for e in expected], abs=1e-4)
