from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from stabcheck import stats
from stabcheck.check import Skip
from stabcheck.diagnoses.gradient_norms import CHECK
from stabcheck.recording import Clipping, OptimizerFacts
from stabcheck.trial.recorder import record_trial
from tests.diagnoses.recordings import STEPS, falling, flat, parameter, recording, steps
from tests.setups import classifier

NOTHING = (None,) * STEPS


def codes(made: Any) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in CHECK.run(made).findings]


def test_an_infinite_gradient_below_a_finite_loss_names_parameter_and_step() -> None:
    (finding,) = CHECK.run(recording(first_non_finite=("gradient", "2.weight", 3))).findings

    assert (finding.code, finding.location, finding.evidence["step"]) == ("SC0201", "2.weight", 3)


def test_a_bad_batch_is_the_datas_fault() -> None:
    assert codes(recording(first_non_finite=("input", "", 0))) == [("SC0205", "fail")]


def test_a_loss_that_is_no_number_from_nowhere_is_the_losss_fault() -> None:
    assert codes(recording(steps=steps([math.inf] * 3), first_non_finite=("loss", "", 0))) == [("SC0206", "fail")]


def test_a_loss_that_overflows_after_growth_or_huge_updates_is_not() -> None:
    grown = recording(steps=steps([2.3, 40.0, math.inf]), first_non_finite=("loss", "", 2))
    jumped = recording(
        steps=steps([2.3, math.inf]),
        first_non_finite=("loss", "", 1),
        parameters=(parameter(update_norm=(90.0,) * 10),),
    )

    assert codes(grown) == codes(jumped) == []


@pytest.mark.parametrize(("gradient", "expected"), [(0.0, [("SC0207", "fail")]), (1e-9, [])])
def test_zero_weights_that_never_get_a_gradient_are_stuck(gradient: float, expected: list[tuple[str, str]]) -> None:
    """A zero-initialised layer alone gets a gradient from the first or second step on."""
    course = (0.0, 0.0, *(gradient,) * (STEPS - 2))
    made = parameter("gate.weight", zero_at_start=True, constant_at_start=True, grad_norm=course)

    assert codes(recording(parameters=(made, parameter("out.weight")))) == expected


def test_parameters_behind_a_cut_fail_once_per_module() -> None:
    cut = [parameter(f"emb.{n}", grad_norm=NOTHING, clipped_norm=NOTHING, matters=True) for n in ("weight", "bias")]
    (finding,) = CHECK.run(recording(parameters=(*cut, parameter("out.weight")))).findings

    assert (finding.code, finding.location, finding.evidence["count"]) == ("SC0202", "emb", 2)


@pytest.mark.parametrize(
    "silent",
    [
        {"trainable": False},
        {"matters": False},
        {"matters": None},
        {"matters": True, "optimized": False},
    ],
    ids=["frozen", "unused", "not measured", "kept out of the optimizer"],
)
def test_other_silent_parameters_are_only_listed(silent: dict[str, Any]) -> None:
    made = parameter("emb.weight", grad_norm=NOTHING, clipped_norm=NOTHING, **silent)
    outcome = CHECK.run(recording(parameters=(made, parameter("out.weight"))))

    assert outcome.findings == ()
    assert "emb.weight" in outcome.measurements["frozen"] + outcome.measurements["unused"] or silent.get("matters")


SMALL = parameter(update_norm=(1e-5,) * 10)
CLIPPED = {
    "steps": steps(flat(), [5.0] * STEPS, [1e-3] * STEPS), "parameters": (SMALL,), "clipping": Clipping(None, 1e-3),
}  # fmt: skip


def test_a_clip_that_takes_everything_fails_and_proposes_the_ninetieth_percentile() -> None:
    (finding,) = CHECK.run(recording(**CLIPPED)).findings

    assert finding.code == "SC0203"
    assert "clip at 5 " in finding.fix


@pytest.mark.parametrize(
    "healthy",
    [
        {"optimizers": (OptimizerFacts("AdamW", ({"lr": 1e-3},)),)},
        {"steps": steps(falling(), [5.0] * STEPS, [1e-3] * STEPS)},
        {"parameters": (parameter(),)},
        {"clipping": Clipping(None, 1.0)},
    ],
    ids=["Adam does not mind", "it learns", "updates are large enough", "by a factor of five"],
)
def test_clipping_that_is_harmless(healthy: dict[str, Any]) -> None:
    assert codes(recording(**{**CLIPPED, **healthy})) == []


def test_a_spike_that_lifts_the_loss_is_a_warning_unless_clipped() -> None:
    norms, losses = [1.0] * STEPS, falling(2.3, 1.0)
    norms[25], losses[26:] = 80.0, [4.0] * 14

    assert codes(recording(steps=steps(losses, norms))) == [("SC0204", "warn")]
    assert codes(recording(steps=steps(losses, norms), clipping=Clipping(1.0, None))) == []
    assert codes(recording(steps=steps(falling(2.3, 1.0), norms))) == []


def test_nothing_seen_is_a_skip() -> None:
    with pytest.raises(Skip):
        CHECK.run(recording(steps=()))


def test_the_table_holds_what_was_recorded(make_bench: Any) -> None:
    made = record_trial(make_bench(classifier()), steps=12)
    measured = CHECK.run(made).measurements
    row = next(r for r in measured["parameters"] if r["name"] == "0.weight")
    column = [float(v) for v in made.parameters[0].grad_norm]

    assert (row["first"], row["last"], row["max"]) == (column[0], column[-1], max(column))
    assert row["median"] == pytest.approx(float(torch.tensor(column, dtype=torch.float64).quantile(0.5)))
    assert measured["suggested_clip"] == pytest.approx(stats.quantile(measured["total"], 0.9))
    for step in range(12):
        assert measured["total"][step] == pytest.approx(math.hypot(*[p.grad_norm[step] for p in made.parameters]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cut", [True, False])
def test_a_detached_embedding_fails_and_a_frozen_one_passes(make_bench: Any, seed: int, cut: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.out = nn.Linear(16, 16), nn.Linear(16, 4)
            self.emb.requires_grad_(cut)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.emb(x).detach()))

    made = record_trial(make_bench(classifier(Net), seed=seed), steps=5)

    assert codes(made) == ([("SC0202", "fail")] if cut else [])
