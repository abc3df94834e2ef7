"""Losses that are least where nothing was learnt: a term against itself, a mask the wrong way round, a right answer that is a
place, scores that are bounded, distances for scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.experiments.loss_contract import CHECK
from tests.experiments.loss_cases import computing, ending_in, stepping
from tests.setups import blobs, classifier

MakeBench = Callable[..., Any]


def codes(make_bench: MakeBench, setup: Any, seed: int = 0) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in CHECK.run(make_bench(setup, seed=seed)).findings]


# --- against itself


def policy(old: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[nn.Module, Any], torch.Tensor]:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, actions = batch
        chosen = torch.distributions.Categorical(logits=model(inputs)).log_prob(actions)
        return -((chosen - old(chosen)).exp() * inputs[:, 0]).mean() + 1e-3 * model(inputs).square().mean()

    return loss


def again(model: nn.Module, batch: Any, *, apart: float) -> torch.Tensor:
    """Consistency between two views; with nothing between them it is between the same numbers."""
    one, other = model(batch[0]), model(batch[0] + apart)
    return F.cross_entropy(one, batch[1]) + F.mse_loss(one.softmax(1), other.softmax(1))


class Copied(nn.Module):
    """A student that starts as its teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(16, 4), nn.Linear(16, 4)
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(self.student(inputs), self.teacher(inputs))


ITSELF = {
    "ratio": computing(policy(lambda chosen: chosen)),
    "ratio made twice": computing(
        lambda m, b: (m(b[0]).log_softmax(1) - m(b[0]).log_softmax(1)).exp().mean() + F.cross_entropy(m(b[0]), b[1])
    ),
    "quotient": stepping(lambda m, b: (m(b[0]).exp() / m(b[0]).exp()).mean() + F.cross_entropy(m(b[0]), b[1])),
    "divergence": computing(
        lambda m, b: F.kl_div(m(b[0]).log_softmax(1), m(b[0]).log_softmax(1), log_target=True) + m(b[0]).square().mean()
    ),
    "two views": computing(lambda m, b: again(m, b, apart=0.0)),
    "own target": computing(lambda m, b: F.mse_loss(o := m(b[0]), o.detach())),
}
APART = {
    "ratio": computing(policy(torch.Tensor.detach)),
    "two views": computing(lambda m, b: again(m, b, apart=0.1)),
    "straight through": computing(lambda m, b: F.cross_entropy((o := m(b[0])) + (o.round() - o).detach(), b[1])),
    "teacher that starts as its student": computing(lambda m, b: m(b[0]) + 0.0, Copied),
    "softmax by hand": computing(
        lambda m, b: -((o := m(b[0])) - o.logsumexp(1, keepdim=True)).gather(1, b[1][:, None]).mean()
    ),
    "kept in the graph": computing(lambda m, b: F.cross_entropy(o := m(b[0]), b[1]) + 0.0 * o.sum()),
}


@pytest.mark.parametrize("name", ITSELF)
def test_a_term_against_itself_is_named(name: str, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert codes(make_bench, ITSELF[name], seed) == [("SC1617", "fail")]


@pytest.mark.parametrize("name", APART)
def test_terms_that_only_look_alike_are_left_alone(name: str, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert codes(make_bench, APART[name], seed) == []


# --- masks


def tagging(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], padding: int) -> Any:
    """Rows of different length, and tags of five kinds."""

    def setup() -> dict[str, Any]:
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 5))
        ids = torch.randint(1, 20, (96, 9))
        pad = torch.arange(9) >= torch.randint(4, 9, (96, 1))
        data = TensorDataset(ids.masked_fill(pad, 0), (ids % 5).masked_fill(pad, padding))
        return {
            "model": model,
            "train_loader": DataLoader(data, batch_size=16, shuffle=True),
            "compute_loss": lambda m, b: loss(m(b[0]).flatten(0, 1), b[1].flatten()),
            "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        }

    return setup


def weighed(turned: bool) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def loss(scores: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        mask = ((tags < 0) == turned).float()
        each = F.cross_entropy(scores, tags.clamp(min=0), reduction="none")
        return (each * mask).sum() / mask.sum()

    return loss


def test_a_mask_the_wrong_way_round_is_named(make_bench: MakeBench) -> None:
    for seed in (0, 1, 2):
        (finding,) = CHECK.run(make_bench(tagging(weighed(True), -100), seed=seed)).findings

        assert (finding.code, finding.severity, finding.evidence["value"]) == ("SC1618", "fail", 0)
        assert finding.evidence["kinds"] == 4


def test_labels_that_are_written_over_the_wrong_way_round(make_bench: MakeBench) -> None:
    turned = tagging(lambda scores, tags: F.cross_entropy(scores, tags.masked_fill(tags != 0, -100)), 0)

    # Here 0 is a tag too, so that what is left is still of one kind only.
    assert codes(make_bench, turned) == [("SC1618", "fail")]


@pytest.mark.parametrize(
    "setup",
    [
        tagging(weighed(False), -100),
        tagging(F.cross_entropy, -100),
        tagging(lambda scores, tags: F.cross_entropy(scores, tags, ignore_index=0), 0),
        # Rare positives are looked at more closely, and the rest is not left out altogether.
        tagging(
            lambda s, t: F.cross_entropy(s, t.clamp(min=0), reduction="none")[t == 3].mean() + weighed(False)(s, t),
            -100,
        ),
    ],
)
def test_masks_that_leave_out_padding_are_right(setup: Any, make_bench: MakeBench) -> None:
    assert codes(make_bench, setup) == []


# --- places


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        one, other = self.left(inputs[:, :8]), self.right(inputs[:, 8:])
        return F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / 0.1


def pairs(target: Callable[[int], torch.Tensor], **loader: Any) -> Any:
    def setup() -> dict[str, Any]:
        parts = classifier(Towers)()
        data = DataLoader(
            parts["train_loader"].dataset, **{"batch_size": 16, "shuffle": True, "drop_last": True, **loader}
        )
        loss = lambda m, b: F.cross_entropy(s := m(b[0]), target(len(s)))  # noqa: E731
        return {**parts, "train_loader": data, "loss_fn": None, "compute_loss": loss}

    return setup


@pytest.mark.parametrize(
    "target",
    [
        lambda n: torch.zeros(n, dtype=torch.long),
        lambda n: torch.arange(n).flip(0),
        lambda n: (torch.arange(n) + 1) % n,
    ],
)
def test_right_answers_that_are_places_are_named(target: Any, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert codes(make_bench, pairs(target), seed) == [("SC1619", "fail")]


@pytest.mark.parametrize("loader", [{}, {"shuffle": False}])
def test_partners_that_share_their_index_are_right(loader: Any, make_bench: MakeBench) -> None:
    assert codes(make_bench, pairs(torch.arange, **loader)) == []


@pytest.mark.parametrize(("ahead", "found"), [(1, [("SC1619", "fail")]), (16, [])])
def test_two_views_of_each_sample_one_after_the_other(ahead: int, found: Any, make_bench: MakeBench) -> None:
    def views(model: nn.Module, batch: Any) -> torch.Tensor:
        both = F.normalize(torch.cat([model(0.9 * batch[0]), model(batch[0] + 0.05)]), dim=1)
        scores = (both @ both.T / 0.2).masked_fill(torch.eye(32, dtype=torch.bool), -1e9)
        return F.cross_entropy(scores, (torch.arange(32) + ahead) % 32)

    def setup() -> dict[str, Any]:
        parts = classifier(ending_in(outputs=8))()
        loader = DataLoader(parts["train_loader"].dataset, batch_size=16, shuffle=True, drop_last=True)
        return {**parts, "train_loader": loader, "loss_fn": None, "compute_loss": views}

    assert codes(make_bench, setup) == found


def test_neighbours_may_be_partners_where_the_order_is_the_loaders(make_bench: MakeBench) -> None:
    assert codes(make_bench, pairs(lambda n: torch.arange(n) ^ 1, shuffle=False)) == []


def test_the_first_column_may_be_the_right_one_of_each_row(make_bench: MakeBench) -> None:
    def queue(model: nn.Module, batch: Any) -> torch.Tensor:
        keys = torch.randn(31, 4, generator=torch.Generator().manual_seed(1))
        own = model(batch[0])
        scores = torch.cat([own.square().sum(1, keepdim=True), own @ keys.T], 1)
        return F.cross_entropy(scores, torch.zeros(len(own), dtype=torch.long))

    assert codes(make_bench, computing(queue)) == []


# --- scores


class Cosines(nn.Module):
    """Cosines to a vector of each class, times a scale."""

    def __init__(self, scale: float | None, classes: int = 4) -> None:
        super().__init__()
        self.body, self.classes = nn.Linear(16, 8), nn.Parameter(torch.randn(classes, 8))
        self.scale = nn.Parameter(torch.tensor(1.0)) if scale is None else scale

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scale * F.linear(F.normalize(self.body(inputs)), F.normalize(self.classes))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_cosines_without_a_scale_are_named_with_the_floor_they_have(scale: float, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        (finding,) = CHECK.run(make_bench(classifier(lambda: Cosines(scale)), seed=seed)).findings
        best = F.cross_entropy(scale * (2 * torch.eye(4) - 1), torch.arange(4))

        assert (finding.code, finding.severity) == ("SC1620", "fail")
        assert finding.evidence["lowest"] == pytest.approx(float(best), rel=1e-3)
        assert finding.evidence["guess"] == pytest.approx(math.log(4))


@pytest.mark.parametrize("scale", [16.0, 5.0, None])
def test_cosines_with_a_scale_are_left_alone(scale: float | None, make_bench: MakeBench) -> None:
    assert codes(make_bench, classifier(lambda: Cosines(scale))) == []


def test_ordinary_scores_of_a_normalised_layer_are_left_alone(make_bench: MakeBench) -> None:
    assert codes(make_bench, classifier(ending_in(nn.LayerNorm(4), nn.Linear(4, 4, bias=False)))) == []


def episode(sign: float, power: int, divided: float = 4.0) -> Callable[[nn.Module, Any], torch.Tensor]:
    """Half of the batch makes a prototype of each class, the other half is classified by its distance to them."""

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        own, labels = model(batch[0]), batch[1]
        means = torch.stack([own[:16][labels[:16] == k].sum(0) / 4 for k in range(4)])
        apart = own[16:, None] - means[None]
        far = apart.pow(2).sum(-1) if power == 2 else apart.norm(dim=-1)
        return F.cross_entropy(sign * far / divided, labels[16:])

    return loss


@pytest.mark.parametrize("power", [1, 2])
def test_distances_for_scores_are_named(power: int, make_bench: MakeBench) -> None:
    for seed in (0, 1):
        assert codes(make_bench, computing(episode(1, power)), seed) == [("SC1621", "fail")]
        assert codes(make_bench, computing(episode(-1, power, -4.0)), seed) == [("SC1621", "fail")]


@pytest.mark.parametrize("power", [1, 2])
def test_minus_the_distance_is_a_score(power: int, make_bench: MakeBench) -> None:
    assert codes(make_bench, computing(episode(-1, power))) == []


def test_a_distance_to_vectors_that_are_learnt_may_be_a_score(make_bench: MakeBench) -> None:
    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.centres = nn.Linear(16, 8), nn.Parameter(torch.randn(4, 8))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.cdist(self.body(inputs), self.centres)

    assert blobs()[1].max() == 3
    assert codes(make_bench, classifier(Far)) == []
