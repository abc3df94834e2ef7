from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.training_loop import CHECK
from stabcheck.trial.bench import Bench
from tests.experiments import loop_cases
from tests.experiments.loop_cases import RIGHT, WRONG, loss_of, stepping, textbook
from tests.setups import classifier, mlp

MakeBench = Callable[..., Bench]


def codes(outcome: Outcome) -> dict[str, str]:
    return {finding.code: finding.severity for finding in outcome.findings}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("name", RIGHT)
def test_right_steps_are_left_alone(name: str, optimizer: Any, make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(stepping(RIGHT[name], optimizer=optimizer)))

    assert outcome.findings == ()
    assert outcome.measurements["steps"] >= 6


@pytest.mark.parametrize("name", WRONG)
def test_wrong_steps_are_named(name: str, make_bench: MakeBench) -> None:
    maker, code = WRONG[name]

    outcome = CHECK.run(make_bench(stepping(maker)))

    assert codes(outcome) == {code: "warn" if code == "SC1503" else "fail"}


@pytest.mark.parametrize("seed", range(3))
def test_a_clipping_of_a_part(seed: int, make_bench: MakeBench) -> None:
    def outcome(maker: Any, **keys: Any) -> Any:
        return CHECK.run(make_bench(stepping(maker, **keys), seed=seed))

    (found,) = outcome(loop_cases.clipped_head, clip_grad_norm=0.1).findings

    assert (found.code, found.severity) == ("SC1523", "fail")
    assert (found.evidence["given"], found.evidence["count"]) == (2, len(list(mlp().parameters())))
    assert found.evidence["norm"] > 0.1
    assert not outcome(loop_cases.clipped_head).findings  # a part may be what is meant
    assert not outcome(loop_cases.clipped_head, clip_grad_norm=100.0).findings
    assert not outcome(loop_cases.clipped_in_groups, clip_grad_norm=0.1).findings


def test_minus_the_loss_is_right_for_an_optimizer_that_climbs(make_bench: MakeBench) -> None:
    entry = stepping(WRONG["minus_the_loss"][0])

    def setup() -> dict[str, Any]:
        parts = entry()
        for group in parts["optimizer"].param_groups:
            group["maximize"] = True
        return parts

    assert CHECK.run(make_bench(setup)).findings == ()


def test_old_gradients_add_up_as_the_finding_says(make_bench: MakeBench) -> None:
    seen: list[torch.Tensor] = []
    alone: list[torch.Tensor] = []

    def maker(model: nn.Module, optimizer: Any) -> Any:
        def flat(gradients: Any) -> torch.Tensor:
            return torch.cat([g.reshape(-1) for g in gradients])

        def step(batch: Any) -> Any:
            loss = loss_of(model, batch)
            alone.append(flat(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)))
            loss.backward()
            seen.append(flat(p.grad for p in model.parameters()).clone())
            optimizer.step()
            return loss.item()

        return step

    finding = CHECK.run(make_bench(stepping(maker))).findings[0]

    call = finding.evidence["call"]
    assert torch.allclose(seen[call], seen[call - 1] + alone[call], atol=1e-6)
    assert finding.evidence["together"] == pytest.approx(float(seen[call].norm()), rel=1e-4)
    assert finding.evidence["old"] == pytest.approx(float(seen[call - 1].norm()), rel=1e-4)
    assert finding.evidence["fresh"] == pytest.approx(float(alone[call].norm()), rel=1e-4)


@pytest.mark.parametrize("clears", [True, False])
def test_accumulation_is_no_leftover_unless_it_goes_on(clears: bool, make_bench: MakeBench) -> None:
    def maker(model: nn.Module, optimizer: Any) -> Any:
        count = [0]

        def step(batch: Any) -> Any:
            loss = loss_of(model, batch)
            (loss / 4).backward()
            count[0] += 1
            if count[0] % 4 == 0:
                optimizer.step()
                if clears:
                    optimizer.zero_grad()
            return loss.item()

        return step

    outcome = CHECK.run(make_bench(stepping(maker, accumulate_steps=4)))

    assert codes(outcome) == ({} if clears else {"SC1501": "fail"})


def test_observing_changes_nothing(make_bench: MakeBench) -> None:
    def losses(**changes: Any) -> list[float]:
        torch.manual_seed(0)
        parts = stepping(textbook)()
        return [float(parts["train_step"](batch)) for batch in list(parts["train_loader"])[:6]]

    seen: list[float] = []

    def maker(model: nn.Module, optimizer: Any) -> Any:
        step = textbook(model, optimizer)

        def noted(batch: Any) -> Any:
            value = step(batch)
            seen.append(float(value))
            return value

        return noted

    CHECK.run(make_bench(stepping(maker)))

    assert seen[:6] == losses()


# --- who owns which parameter


def without(part: Callable[[nn.Module], Any], **keys: Any) -> Callable[[], dict[str, Any]]:
    """A set-up whose optimizer gets only `part` of the model."""

    def setup() -> dict[str, Any]:
        parts = classifier(lambda: mlp(depth=3))()
        parts["optimizer"] = torch.optim.Adam(list(part(parts["model"])), lr=1e-2)
        return {**parts, **keys}

    return setup


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layer", [2, 6])
def test_a_forgotten_layer_is_named(layer: int, seed: int, make_bench: MakeBench) -> None:
    setup = without(lambda model: [p for n, p in model.named_parameters() if not n.startswith(f"{layer}.")])

    outcome = CHECK.run(make_bench(setup, seed=seed))

    assert codes(outcome) == {"SC1505": "fail"}
    assert outcome.findings[0].location == str(layer)


def test_a_forgotten_part_is_named_as_a_whole(make_bench: MakeBench) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.side, self.head = (
                mlp(depth=3),
                nn.Sequential(mlp(features=4), nn.LayerNorm(4)),
                nn.Linear(4, 4),
            )

        def forward(self, inputs: Any) -> Any:
            hidden = self.trunk(inputs)
            return self.head(hidden + self.side(hidden))

    def setup() -> dict[str, Any]:
        parts = classifier(Branches)()
        model = parts["model"]
        kept = [p for name, p in model.named_parameters() if not name.startswith("side")]
        return {**parts, "optimizer": torch.optim.Adam(kept, lr=1e-3)}

    (finding,) = CHECK.run(make_bench(setup)).findings

    assert (finding.code, finding.location, finding.evidence["count"]) == ("SC1505", "side", 8)


def test_norms_that_no_parameter_group_takes(make_bench: MakeBench) -> None:
    def model() -> nn.Module:
        layers = [part for _ in range(3) for part in (nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU())]
        return nn.Sequential(*layers, nn.Linear(16, 4))

    def setup() -> dict[str, Any]:
        parts = classifier(model)()
        decayed = [p for p in parts["model"].parameters() if p.dim() > 1]
        biases = [p for n, p in parts["model"].named_parameters() if n.endswith("bias") and n[0] not in "147"]
        return {**parts, "optimizer": torch.optim.AdamW([{"params": decayed}, {"params": biases}], lr=1e-3)}

    findings = CHECK.run(make_bench(setup)).findings

    assert [(f.code, f.severity, f.location) for f in findings] == [("SC1505", "fail", i) for i in "147"]


def test_a_forgotten_first_layer_is_a_warning_only_if_it_may_be_older_than_the_set_up(make_bench: MakeBench) -> None:
    entry = without(lambda model: list(model.parameters())[2:])

    def loaded() -> dict[str, Any]:
        parts = entry()
        parts["model"].load_state_dict(copy.deepcopy(parts["model"].state_dict()))
        return parts

    assert codes(CHECK.run(make_bench(entry))) == {"SC1505": "fail"}
    assert codes(CHECK.run(make_bench(loaded))) == {"SC1505": "warn"}


@pytest.mark.parametrize(
    "part",
    [
        lambda model: list(model[6].parameters()),
        lambda model: [p for n, p in model.named_parameters() if n.endswith("bias")],
        lambda model: list(model[0].parameters()),
    ],
    ids=["probe", "biases", "first layer"],
)
def test_what_may_be_left_out_on_purpose_is_said_and_not_judged(part: Any, make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(without(part)))

    loose = outcome.measurements["parameters_with_gradient_only"]
    assert outcome.findings == ()
    assert loose > 0
    assert (
        outcome.not_checked[0].what == f"whether the {loose} parameters outside the optimizer are to stay as they are"
    )


def test_a_trained_layer_kept_fixed_is_no_fault(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier(lambda: mlp(depth=3))()
        model, optimizer = parts["model"], parts["optimizer"]
        for _ in range(20):
            for inputs, labels in parts["train_loader"]:
                optimizer.zero_grad()
                loss_of(model, (inputs, labels)).backward()
                optimizer.step()
        kept = {id(p) for p in model[4].parameters()}
        parts["optimizer"] = torch.optim.Adam([p for p in model.parameters() if id(p) not in kept], lr=1e-2)
        return parts

    assert CHECK.run(make_bench(setup)).findings == ()


@pytest.mark.parametrize("classes", [4, 9])
def test_a_head_swapped_after_the_optimizer_was_built(classes: int, make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier()()
        parts["model"][4] = nn.Linear(32, classes)
        return parts

    outcome = CHECK.run(make_bench(setup))

    assert codes(outcome) == {"SC1506": "fail"}
    assert outcome.findings[0].location == "4"
    assert outcome.findings[0].evidence["count"] == 2


def test_an_optimizer_of_a_copy(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier()()
        parts["optimizer"] = torch.optim.Adam(copy.deepcopy(parts["model"]).parameters(), lr=1e-2)
        return parts

    outcome = CHECK.run(make_bench(setup))

    assert codes(outcome) == {"SC1506": "fail"}
    assert outcome.findings[0].location is None


def test_a_parameter_listed_twice(make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(without(lambda model: [*model.parameters(), *model[6].parameters()])))

    assert codes(outcome) == {"SC1507": "fail"}
    assert outcome.findings[0].location == "6.weight"


def test_parameters_of_the_loss_without_optimizer(make_bench: MakeBench) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, outputs: Any, labels: Any) -> Any:
            return nn.functional.cross_entropy(outputs * self.temperature, labels)

    def setup() -> dict[str, Any]:
        return {**classifier()(), "loss_fn": Weighted()}

    assert codes(CHECK.run(make_bench(setup))) == {"SC1505": "warn"}


def test_scheduler_stepped_first(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier()()
        model, optimizer = parts["model"], parts["optimizer"]
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)

        def step(batch: Any) -> Any:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            scheduler.step()
            optimizer.step()
            return loss.item()

        return {**parts, "scheduler": scheduler, "train_step": step}

    assert codes(CHECK.run(make_bench(setup))) == {"SC1514": "warn"}


def test_without_a_train_step_the_order_is_said_to_be_unchecked(make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(classifier()))

    assert outcome.findings == ()
    assert [item.what for item in outcome.not_checked] == ["your own training step"]


def test_without_any_step_it_is_skipped(make_bench: MakeBench) -> None:
    with pytest.raises(Skip, match="optimizer"):
        CHECK.run(make_bench(lambda: {**classifier()(), "optimizer": None}))


@pytest.mark.parametrize("name", ["no_zero_grad", "cleared_before_step", "stepped_before_backward"])
def test_the_place_is_the_line_that_steps(name: str, make_bench: MakeBench) -> None:
    (finding,) = CHECK.run(make_bench(stepping(getattr(loop_cases, name)))).findings

    assert finding.source is not None
    file, line = finding.source
    assert file == loop_cases.__file__
    assert "optimizer.step()" in Path(file).read_text().splitlines()[line - 1]


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(16, 8), nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.body(inputs))
        return self.kind(hidden), self.size(hidden)[:, 0]


def two_parts(model: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    kind, size = model(batch[0])
    return nn.functional.cross_entropy(kind, batch[1]), nn.functional.mse_loss(size, batch[0][:, 0])


def of_two_parts(choose: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], dict[str, Any]]:
    """The set-up's loss is the sum of two parts; `choose` takes what call `n` is trained on."""

    def setup() -> dict[str, Any]:
        parts = {**classifier(Heads)(), "loss_fn": None, "compute_loss": lambda m, b: sum(two_parts(m, b))}
        calls: list[int] = []

        def step(batch: Any) -> float:
            parts["optimizer"].zero_grad()
            one, other = two_parts(parts["model"], batch)
            choose(len(calls), one, other).backward()
            calls.append(1)
            parts["optimizer"].step()
            return float(one + other)

        return {**parts, "train_step": step}

    return setup


def test_a_part_of_the_loss_that_is_left_out_is_named(make_bench: MakeBench) -> None:
    for seed in (0, 1):
        outcome = CHECK.run(make_bench(of_two_parts(lambda n, one, other: one), seed=seed))
        (finding,) = outcome.findings

        assert (finding.code, finding.location, finding.evidence["count"]) == ("SC1521", "size", 2)
        assert finding.evidence["root"] < finding.evidence["loss"]


@pytest.mark.parametrize(
    "choose",
    [
        lambda n, one, other: one + other,
        lambda n, one, other: one if n % 2 else other,
        lambda n, one, other: one + 0.0 * other,  # its weight is yet to grow
    ],
)
def test_parts_of_the_loss_that_take_turns_are_left_alone(choose: Any, make_bench: MakeBench) -> None:
    assert codes(CHECK.run(make_bench(of_two_parts(choose)))) == {}
