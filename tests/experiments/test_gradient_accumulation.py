from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.gradient_accumulation import CHECK
from stabcheck.trial.bench import Bench
from tests.experiments.loop_cases import RIGHT, loss_of, stepping
from tests.setups import classifier, mlp

MakeBench = Callable[..., Bench]


def codes(outcome: Outcome) -> dict[str, str]:
    return {finding.code: finding.severity for finding in outcome.findings}


def window(
    every: int = 4, *, divide: float | None = None, first: int = 1, clears: str = "step", steps: str = "window",
    clip: float | None = None, clips: str = "window", loss: Any = loss_of,
) -> Any:  # fmt: skip
    """A step that accumulates over `every` calls."""

    def maker(model: nn.Module, optimizer: Any) -> Any:
        count = [first - 1]

        def step(batch: Any) -> Any:
            if clears == "call":
                optimizer.zero_grad()
            value = loss(model, batch)
            (value / (every if divide is None else divide)).backward()
            count[0] += 1
            if clip and clips == "call":
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if count[0] % every == 0 or steps == "call":
                if clip and clips == "window":
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
            return value.item()

        return step

    return maker


def pieces(count: int = 4, *, divide: bool = True, clears: bool = False) -> Any:
    """A step that cuts its batch into pieces."""

    def maker(model: nn.Module, optimizer: Any) -> Any:
        def step(batch: Any) -> Any:
            total = 0.0
            optimizer.zero_grad()
            for inputs, labels in zip(batch[0].chunk(count), batch[1].chunk(count), strict=True):
                if clears:
                    optimizer.zero_grad()
                value = loss_of(model, (inputs, labels)) / (count if divide else 1)
                value.backward()
                total += value.item()
            optimizer.step()
            return total

        return step

    return maker


def noisy() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("model", [mlp, noisy])
@pytest.mark.parametrize("every", [2, 5])
def test_a_divided_window_is_the_mean_of_its_micro_batches(
    every: int, model: Any, seed: int, make_bench: MakeBench
) -> None:
    setup = stepping(window(every, clip=5.0), model, accumulate_steps=every, optimizer=torch.optim.SGD)

    outcome = CHECK.run(make_bench(setup, seed=seed))

    assert outcome.findings == ()
    assert outcome.measurements["factor"] == pytest.approx(1, rel=1e-4)
    assert outcome.measurements["cosine"] == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("divide", "factor"), [(1.0, 4.0), (16.0, 0.25)])
def test_a_wrong_division_is_a_fault_with_sgd(divide: float, factor: float, seed: int, make_bench: MakeBench) -> None:
    setup = stepping(window(divide=divide), noisy, accumulate_steps=4, optimizer=torch.optim.SGD)

    outcome = CHECK.run(make_bench(setup, seed=seed))

    assert codes(outcome) == {"SC2202": "fail"}
    assert outcome.findings[0].evidence["factor"] == pytest.approx(factor, rel=1e-4)


def test_adam_does_not_see_a_constant_factor(make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(stepping(window(divide=1.0), accumulate_steps=4)))

    assert outcome.findings == ()
    assert outcome.measurements["factor"] == pytest.approx(4, rel=1e-4)


def test_clipping_that_always_acts_hides_it_too(make_bench: MakeBench) -> None:
    setup = stepping(window(divide=1.0, clip=1e-3), accumulate_steps=4, optimizer=torch.optim.SGD)

    assert CHECK.run(make_bench(setup)).findings == ()


@pytest.mark.parametrize("every", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_sum_that_is_clipped_before_it_is_complete(every: int, seed: int, make_bench: MakeBench) -> None:
    setup = stepping(window(every, clip=1e-2, clips="call"), accumulate_steps=every)

    outcome = CHECK.run(make_bench(setup, seed=seed))

    assert codes(outcome) == {"SC2206": "warn"}
    (finding,) = outcome.findings
    assert finding.evidence["count"] == finding.evidence["total"] > 0
    assert finding.evidence["norm"] > finding.evidence["threshold"] == 1e-2


@pytest.mark.parametrize("step", [window(clip=1e3, clips="call"), window(clip=1e-2)], ids=["guard", "once"])
def test_clipping_that_spares_the_micro_batches_is_silent(step: Any, make_bench: MakeBench) -> None:
    assert CHECK.run(make_bench(stepping(step, accumulate_steps=4))).findings == ()


def weighted(*weights: float, running: bool = False, sizes: bool = False) -> Any:
    """A step that weights the micro-batches by their place, or by how many samples they have, or sends a running sum backward."""

    def maker(model: nn.Module, optimizer: Any) -> Any:
        count, total = [0], [torch.zeros(())]

        def step(batch: Any) -> Any:
            value = loss_of(model, batch)
            if running:
                total[0] = total[0] + value / len(weights)
                total[0].backward(retain_graph=True)
            else:
                (value * (len(batch[0]) / 100 if sizes else weights[count[0] % len(weights)])).backward()
            count[0] += 1
            if count[0] % len(weights) == 0:
                optimizer.step()
                optimizer.zero_grad()
                total[0] = torch.zeros(())
            return value.item()

        return step

    return maker


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model", [mlp, noisy])
@pytest.mark.parametrize(
    ("step", "counted"),
    [
        (weighted(0, 0, 0, running=True), "1, 0.67, 0.33"),
        (weighted(1, 1, 0.25), "1, 1, 0.25"),
        (weighted(0.5, 0), "0.5, 0"),
    ],
)
def test_micro_batches_that_count_by_their_place(
    step: Any, counted: str, model: Any, seed: int, make_bench: MakeBench
) -> None:
    declared = 2 if counted == "0.5, 0" else 3
    outcome = CHECK.run(make_bench(stepping(step, model, accumulate_steps=declared), seed=seed))

    assert codes(outcome) == {"SC2207": "fail"}
    assert outcome.findings[0].evidence["shares"] == counted


def test_micro_batches_that_count_by_their_samples(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        made: dict[str, Any] = stepping(weighted(1, 1, 1, sizes=True), accumulate_steps=3)()
        inputs, labels = map(torch.cat, zip(*made["train_loader"], strict=True))
        cuts = [0, 8, 40, 44, 52, 84, 88]
        loader = [(inputs[a:b], labels[a:b]) for a, b in itertools.pairwise(cuts)]
        return {**made, "train_loader": loader}

    assert "SC2207" not in codes(CHECK.run(make_bench(setup)))


def test_a_sum_over_samples_is_not_divided(make_bench: MakeBench) -> None:
    def summed(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def setup() -> dict[str, Any]:
        parts = stepping(window(divide=1.0, loss=summed), accumulate_steps=4, optimizer=torch.optim.SGD)()
        return {**parts, "loss_fn": nn.CrossEntropyLoss(reduction="sum")}

    assert CHECK.run(make_bench(setup)).findings == ()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_gradients_cleared_at_each_call(optimizer: Any, make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(stepping(window(clears="call"), accumulate_steps=4, optimizer=optimizer)))

    assert codes(outcome) == {"SC2201": "fail"}
    assert outcome.findings[0].evidence["passes"] == 4
    assert outcome.findings[0].evidence["kept"] == 1


def test_stepping_at_each_call(make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(stepping(window(steps="call"), accumulate_steps=4)))

    assert codes(outcome) == {"SC2203": "fail"}


def test_another_window_than_declared(make_bench: MakeBench) -> None:
    assert codes(CHECK.run(make_bench(stepping(window(3), accumulate_steps=4)))) == {"SC2204": "warn"}


@pytest.mark.parametrize("first", [1, 4])
def test_accumulation_that_is_not_declared(first: int, make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(stepping(window(4, first=first))))

    assert codes(outcome) == {"SC2205": "warn"}
    assert outcome.findings[0].evidence["gap"] == 4


def test_a_batch_cut_into_pieces(make_bench: MakeBench) -> None:
    setup = stepping(pieces(), optimizer=torch.optim.SGD)

    outcome = CHECK.run(make_bench(setup))

    assert outcome.findings == ()
    assert outcome.measurements["parts_per_call"] == 4
    assert outcome.measurements["factor"] == pytest.approx(1, rel=1e-4)


def test_pieces_that_are_thrown_away(make_bench: MakeBench) -> None:
    assert codes(CHECK.run(make_bench(stepping(pieces(clears=True))))) == {"SC2201": "fail"}


def test_pieces_that_are_not_divided(make_bench: MakeBench) -> None:
    outcome = CHECK.run(make_bench(stepping(pieces(divide=False), optimizer=torch.optim.SGD)))

    assert codes(outcome) == {"SC2202": "fail"}
    assert outcome.findings[0].evidence["count"] == 4


@pytest.mark.parametrize("name", [name for name in RIGHT if name != "two_losses"])
def test_steps_without_accumulation_are_skipped(name: str, make_bench: MakeBench) -> None:
    with pytest.raises(Skip):
        CHECK.run(make_bench(stepping(RIGHT[name])))


def test_uneven_counts_of_labels_are_measured(make_bench: MakeBench) -> None:
    """The mean of means against the mean over all labels, computed at once from the batches themselves."""

    def labelled(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch["inputs"]), batch["labels"])

    seen: list[tuple[Any, Any]] = []

    def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
        labels = torch.stack([label for _, label in samples])
        keep = int(torch.randint(2, len(labels), ()))
        labels[keep:] = -100
        return {"inputs": torch.stack([inputs for inputs, _ in samples]), "labels": labels}

    def setup() -> dict[str, Any]:
        parts = classifier(optimizer=torch.optim.SGD, accumulate_steps=2, compute_loss=labelled)()
        del parts["loss_fn"]
        inner = window(2, loss=labelled)(parts["model"], parts["optimizer"])

        def step(batch: Any) -> Any:
            seen.append((batch, {k: v.clone() for k, v in parts["model"].state_dict().items()}))
            return inner(batch)

        loader = DataLoader(parts["train_loader"].dataset, batch_size=32, collate_fn=collate)
        return {**parts, "train_loader": loader, "train_step": step}

    outcome = CHECK.run(make_bench(setup))

    (first, weights), (second, _) = seen[-2:]
    model = mlp()
    model.load_state_dict(weights)

    def gradient(*parts: dict[str, torch.Tensor]) -> torch.Tensor:
        joined = {key: torch.cat([p[key] for p in parts]) for key in first}
        return torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(labelled(model, joined), list(model.parameters()))]
        )

    together = gradient(first, second)
    error = float(((gradient(first) + gradient(second)) / 2 - together).norm() / together.norm())
    assert outcome.measurements["mean_of_means_error"] == pytest.approx(error, rel=1e-3)
    assert outcome.measurements["labels_that_count"] == [int((b["labels"] != -100).sum()) for b in (first, second)]
    assert outcome.findings == ()


def test_a_loss_that_is_known_only_in_the_step(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = stepping(window(), accumulate_steps=4)()
        return {key: value for key, value in parts.items() if key != "loss_fn"}

    outcome = CHECK.run(make_bench(setup))

    assert outcome.findings == ()
    assert "the scale of the accumulated gradient" in [item.what for item in outcome.not_checked]


def test_the_textbook_loop_is_not_the_users(make_bench: MakeBench) -> None:
    with pytest.raises(Skip, match="train_step"):
        CHECK.run(make_bench(classifier(accumulate_steps=4)))
