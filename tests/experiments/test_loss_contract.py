from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.check import Outcome
from stabcheck.experiments.loss_contract import CHECK
from stabcheck.userland import UserCodeError
from tests.experiments import loss_cases as cases
from tests.recorded import recorded
from tests.setups import classifier, mlp

MakeBench = Callable[..., Any]

FAULTY = [(code, setup) for code, setups in cases.FAULTY.items() for setup in setups]
WARNED = [(code, setup) for code, setups in cases.WARNED.items() for setup in setups]


def judge(make_bench: MakeBench, setup: cases.Setup, seed: int = 0) -> Outcome:
    outcome: Outcome = CHECK.run(make_bench(setup, seed=seed))
    return outcome


def found(outcome: Outcome) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in outcome.findings]


@pytest.mark.parametrize(("code", "setup"), FAULTY, ids=[f"{c}-{i}" for i, (c, _) in enumerate(FAULTY)])
def test_fault_is_found_and_nothing_else(code: str, setup: cases.Setup, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert found(judge(make_bench, setup, seed)) == [(code, "fail")]


@pytest.mark.parametrize(("code", "setup"), WARNED, ids=[f"{c}-{i}" for i, (c, _) in enumerate(WARNED)])
def test_doubtful_loss_is_warned_of(code: str, setup: cases.Setup, make_bench: MakeBench) -> None:
    assert found(judge(make_bench, setup)) == [(code, "warn")]


@pytest.mark.parametrize("name", cases.HEALTHY)
def test_healthy_loss_is_left_alone(name: str, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert found(judge(make_bench, cases.HEALTHY[name], seed)) == []


def finding(outcome: Outcome) -> Any:
    (only,) = outcome.findings
    return only


def test_the_floor_of_a_softmax_too_many_is_the_lowest_that_certain_outputs_reach(make_bench: MakeBench) -> None:
    setup = classifier(cases.ending_in(nn.Softmax(dim=1)))
    only = finding(judge(make_bench, setup))
    lowest = float(F.cross_entropy(torch.eye(4), torch.arange(4)))

    assert f"below {lowest:.3g}," in only.message
    assert f"{math.log(4):.3g}" in only.message
    assert only.location == "3"


def test_a_call_in_the_users_file_is_named_by_its_line(make_bench: MakeBench) -> None:
    only = finding(judge(make_bench, cases.computing(in_a_known_place)))

    assert only.source == (__file__, in_a_known_place.__code__.co_firstlineno + 1)


def in_a_known_place(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]).sigmoid(), batch[1])


def test_a_fault_in_the_step_is_found_though_the_loss_fn_is_right(make_bench: MakeBench) -> None:
    wrong = cases.stepping(lambda model, batch: F.cross_entropy(model(batch[0]).softmax(1), batch[1]))

    assert found(judge(make_bench, lambda: {**wrong(), "loss_fn": F.cross_entropy})) == [("SC1601", "fail")]


def test_samples_that_do_not_fit_are_those_whose_loss_is_infinite(make_bench: MakeBench) -> None:
    symbols = torch.tensor([[1, 1, 2], [1, 2, 3], [2, 2, 2], [3, 1, 3]])

    def loss(model: nn.Module, batch: Any, reduction: str = "mean") -> torch.Tensor:
        logits = model(batch[0])[:4].log_softmax(-1).expand(4, -1, -1)
        return F.ctc_loss(logits, symbols, torch.full((4,), 4), torch.full((4,), 3), reduction=reduction)

    evidence = finding(judge(make_bench, cases.computing(loss))).evidence
    parts = cases.computing(loss)()
    each = loss(parts["model"], next(iter(parts["train_loader"])), "none")

    assert evidence["count"] == int(each.isinf().sum()) == 1
    assert (evidence["needed"], evidence["steps"]) == (5, 4)


def test_share_of_padding_is_what_counting_gives(make_bench: MakeBench) -> None:
    setup = cases.language(cases.padded)
    only = finding(judge(make_bench, lambda: {**setup(), "train_loader": [cases.padded(cases.text(64))]}))
    targets = cases.padded(cases.text(64))[1]

    assert only.evidence["share"] == pytest.approx(sum(row.tolist().count(0) for row in targets) / targets.numel())


def test_a_rare_class_out_of_range_is_found_in_a_later_batch(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        parts = classifier()()
        inputs, labels = torch.randn(32, 16), torch.arange(32) % 4
        return {**parts, "train_loader": [(inputs, labels)] * 9 + [(inputs, labels + 1)]}

    assert found(judge(make_bench, setup)) == [("SC1604", "fail")]


def test_an_exception_of_another_kind_is_passed_on(make_bench: MakeBench) -> None:
    def broken(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise KeyError("temperature")

    with pytest.raises(UserCodeError, match="temperature"):
        judge(make_bench, classifier(loss_fn=broken))


def test_looking_changes_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(cases.language(cases.shifted(0)))
    session = bench.shared()
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    modes = [module.training for module in session.model.modules()]
    random = torch.get_rng_state()

    assert CHECK.run(bench).findings
    assert all(torch.equal(before[name], value) for name, value in session.model.state_dict().items())
    assert modes == [module.training for module in session.model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in session.model.modules())


def test_a_loss_by_hand_is_said_not_to_be_seen_through(make_bench: MakeBench) -> None:
    outcome = judge(make_bench, cases.with_targets(cases.images, by_hand, lambda: nn.Linear(16, 16)))

    assert not outcome.findings
    unseen = ["what the loss is made of", "whether the loss has a lowest value"]
    assert [item.what for item in outcome.not_checked] == unseen


def by_hand(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean()


class Pairs(nn.Module):
    """How much better the first half of the features suits than the second."""

    def __init__(self) -> None:
        super().__init__()
        self.taste, self.left, self.right = nn.Linear(16, 4), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.taste(x) * (self.left(x[:, :8]) - self.right(x[:, 8:]))).sum(1)


class Coded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 8), nn.Linear(4, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return self.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp()), mean, log_variance


def evidence_bound(sign: float) -> Callable[[nn.Module, Any], torch.Tensor]:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        output, mean, log_variance = model(batch[0])
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return F.mse_loss(output, batch[0]) + sign * divergence

    return loss


def density(model: nn.Module, batch: Any) -> torch.Tensor:
    """Below zero by an offset, and falling like a logarithm at most."""
    mean, log_width = model(batch[0])[:, :2].unbind(1)
    residual = batch[0][:, 0] / 10 - mean
    return (log_width + (residual / log_width.exp()) ** 2 / 2).mean() - 5


def gap(model: nn.Module, batch: Any) -> torch.Tensor:
    """What a critic maximises whose weights are kept small."""
    return (model(torch.randn_like(batch[0]))[:, 0].mean() - model(batch[0])[:, 0].mean()) - 1


def clipping(setup: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    def clipped() -> dict[str, Any]:
        keys = setup()
        model, optimizer, loss_of = keys["model"], keys["optimizer"], keys["compute_loss"]

        def train_step(batch: Any) -> torch.Tensor:
            optimizer.zero_grad()
            loss: torch.Tensor = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.clamp_(-0.3, 0.3)
            return loss.detach()

        return {**keys, "train_step": train_step}

    return clipped


def unsupervised(model: Callable[[], nn.Module], loss: Any) -> Callable[[], dict[str, Any]]:
    def setup() -> dict[str, Any]:
        keys = classifier(model, lr=1e-2)()
        del keys["loss_fn"]
        return {**keys, "compute_loss": loss}

    return setup


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "setup",
    [
        unsupervised(Pairs, lambda model, batch: -model(batch[0]).mean()),
        unsupervised(Coded, evidence_bound(-1.0)),
        unsupervised(mlp, lambda m, b: F.cross_entropy(m(b[0]), b[1]) - sum((p**2).sum() for p in m.parameters())),
    ],
    ids=["difference of scores", "divergence subtracted", "penalty subtracted"],
)
def test_a_loss_without_a_lowest_value_is_found(setup: Any, seed: int, make_bench: Any) -> None:
    (finding,) = CHECK.run(recorded(make_bench, setup, seed=seed)).findings

    assert (finding.code, finding.severity) == ("SC1616", "fail")
    assert finding.evidence["hundred_times"] < 7 * finding.evidence["ten_times"] < 0


@pytest.mark.parametrize(
    "setup",
    [
        unsupervised(mlp, density),
        unsupervised(Coded, evidence_bound(1.0)),
        clipping(unsupervised(mlp, gap)),
        unsupervised(Pairs, lambda model, batch: -F.logsigmoid(model(batch[0])).mean().neg().exp()),
    ],
    ids=["density", "divergence", "clipped critic", "bounded"],
)
def test_losses_below_zero_that_have_a_lowest_value_are_left_alone(setup: Any, make_bench: Any) -> None:
    assert CHECK.run(recorded(make_bench, setup)).findings == ()
