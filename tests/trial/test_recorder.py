from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck import recording as recordings
from stabcheck.check import Skip
from stabcheck.trial.recorder import record_trial, sample_steps
from stabcheck.trial.rng import seed_all
from stabcheck.userland import UserCodeError
from tests.setups import blobs, classifier, mlp


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.branch, self.out = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inp(x)
        return self.out(h + F.relu(self.branch(h)))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Dropout(0.2), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def transformer() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
            self.out = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.layer(x[:, None]).mean(1))

    return Net()


@pytest.mark.parametrize("model", [mlp, conv_net, transformer, Residual])
@pytest.mark.parametrize("own_step", [False, True])
def test_observing_changes_nothing(make_bench: Any, model: Any, own_step: bool) -> None:
    """Twenty observed steps leave weights, buffers, optimizer and generators bit-equal to twenty unobserved ones."""
    kept: list[dict[str, Any]] = []

    def setup() -> dict[str, Any]:
        made = classifier(model)()
        if own_step:
            network, optimizer = made["model"], made["optimizer"]

            def train_step(batch: Any) -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(network(batch[0]), batch[1])
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                return loss

            made["train_step"] = train_step
        kept.append(made)
        return made

    bench = make_bench(setup)
    record_trial(bench, steps=20)
    observed = {k: v.clone() for k, v in kept[0]["model"].state_dict().items()}
    moments = kept[0]["optimizer"].state_dict()["state"]
    hooks = [h for m in kept[0]["model"].modules() for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]

    session = make_bench(setup).session()
    for step, (_, batch) in enumerate(session.train_batches()):
        session.step(batch)
        if step == 19:
            break
    plain = kept[-1]["model"].state_dict()

    assert all(torch.equal(observed[name], plain[name]) for name in plain)
    for index, state in kept[-1]["optimizer"].state_dict()["state"].items():
        assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(moments[index][k])) for k in state)
    assert not any(hooks)


def test_numbers_agree_with_the_obvious_computation(make_bench: Any) -> None:
    """Losses, gradient norms before and after clipping, updates and signals are those of a loop written out by hand."""
    bench = make_bench(classifier(clip_grad_norm=0.5, lr=1e-1, optimizer=torch.optim.SGD))
    recording = record_trial(bench, steps=5)

    seed_all(0)
    made = classifier(lr=1e-1, optimizer=torch.optim.SGD)()
    network, optimizer = made["model"], made["optimizer"]
    for step, (inputs, labels) in zip(recording.steps, made["train_loader"], strict=False):
        bias = network[0].bias.detach().clone()
        hidden = network[0](inputs)
        hidden.retain_grad()
        rest: torch.Tensor = hidden
        for layer in network[1:]:
            rest = layer(rest)
        loss = F.cross_entropy(rest, labels)
        optimizer.zero_grad()
        loss.backward()
        squares = [float(p.grad.double().pow(2).sum()) for p in network.parameters()]
        raw = math.sqrt(sum(squares))

        assert step.loss == pytest.approx(float(loss), rel=1e-5)
        assert step.grad_norm == pytest.approx(raw, rel=1e-4)
        first = recording.parameters[0]
        assert first.name == "0.weight"
        assert first.grad_norm[step.index] == pytest.approx(math.sqrt(squares[0]), rel=1e-4)
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        assert step.clipped_norm == pytest.approx(min(raw, 0.5), rel=1e-3)
        before = network[0].weight.detach().clone()
        optimizer.step()
        if step.index in recording.sampled:
            row = recording.sampled.index(step.index)
            assert first.weight_norm[row] == pytest.approx(float(before.norm()), rel=1e-5)
            assert first.update_norm[row] == pytest.approx(float((network[0].weight - before).norm()), rel=1e-3)
            signal = recording.signals[0]
            assert signal.grad_norm[row] == pytest.approx(float(hidden.grad.norm()), rel=1e-4)
            made_of = hidden - bias
            share = hidden.var(0, unbiased=False).sum() / min(hidden.pow(2).mean(0).sum(), made_of.pow(2).mean(0).sum())
            assert signal.variance_share[row] == pytest.approx(float(share), rel=1e-4)
            assert signal.out_rms[row] == pytest.approx(float(hidden.pow(2).mean().sqrt()), rel=1e-5)


def test_clip_threshold_is_seen_in_the_users_own_step(make_bench: Any) -> None:
    from torch.nn.utils import clip_grad_norm_  # the name a user imports

    def setup() -> dict[str, Any]:
        made = classifier()()
        network, optimizer = made["model"], made["optimizer"]

        def train_step(batch: Any) -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(batch[0]), batch[1]).backward()
            clip_grad_norm_(network.parameters(), 0.25)
            optimizer.step()

        return {**made, "train_step": train_step}

    recording = record_trial(make_bench(setup), steps=4)

    assert recording.clipping.observed == 0.25
    assert recording.steps[0].grad_norm > 0.25
    assert recording.steps[0].clipped_norm == pytest.approx(0.25, rel=1e-3)
    assert all(step.loss is not None for step in recording.steps), "the loss is taken from backward"


class OwnRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (ctx.saved_tensors[0] > 0)


@pytest.mark.parametrize(
    "body",
    [
        lambda h: h, lambda h: h * 0, torch.tanh, F.gelu, F.leaky_relu, lambda h: h.abs(), lambda h: F.dropout(h, 0.5),
        lambda h: F.relu(h) - 0.1, lambda h: h.exp(),
    ],
)  # fmt: skip
def test_what_lets_more_or_less_than_the_positive_part_pass_is_no_rectifier(make_bench: Any, body: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(16, 32), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(body(self.inp(x)))

    recording = record_trial(make_bench(classifier(Net)), steps=3)

    assert {r.kind for r in recording.rectifiers} <= {"relu"}


@pytest.mark.parametrize(
    "rectify",
    [
        nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Threshold(0, 0), F.relu, torch.relu, torch.relu_,
        lambda x: x.relu(), lambda x: x.clamp(min=0), lambda x: torch.clamp_min(x, 0), lambda x: F.hardtanh(x, 0.0, 6.0),
        lambda x: x * (x > 0), lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.maximum(x, torch.zeros(())),
        lambda x: x.masked_fill(x < 0, 0.0), lambda x: (x + x.abs()) / 2, OwnRelu.apply,
    ],
)  # fmt: skip
def test_every_spelling_of_a_rectifier_is_seen(make_bench: Any, rectify: Any) -> None:
    """First and last firing step of each unit equal those counted from the activations themselves."""
    fired: list[torch.Tensor] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(16, 32), nn.Linear(32, 4)
            nn.init.uniform_(self.inp.bias, -9, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.inp(x)
            if torch.is_grad_enabled():
                fired.append((h.detach() > 0).any(0))
            return self.out(rectify(h))

    recording = record_trial(make_bench(classifier(Net)), steps=8)
    seen = torch.stack(fired[:8])
    expected_first = [int(column.nonzero()[0]) if column.any() else -1 for column in seen.T]
    expected_last = [int(column.nonzero()[-1]) if column.any() else -1 for column in seen.T]

    (rectifier,) = recording.rectifiers
    assert list(rectifier.first_fired) == expected_first
    assert list(rectifier.last_fired) == expected_last
    assert rectifier.after == "inp"


def test_channels_are_the_units_of_feature_maps(make_bench: Any) -> None:
    recording = record_trial(make_bench(classifier(conv_net)), steps=3)

    assert [r.units for r in recording.rectifiers] == [8]


@pytest.mark.parametrize(("model", "expected"), [(Residual, True), (mlp, False)])
def test_a_bypass_is_seen_in_the_graph(make_bench: Any, model: Any, expected: bool) -> None:
    def dead() -> nn.Module:
        network = model()
        layer = network.branch if isinstance(network, Residual) else network[2]
        nn.init.constant_(layer.bias, -100.0)
        return network

    recording = record_trial(make_bench(classifier(dead)), steps=12)
    dead_ones = [r for r in recording.rectifiers if r.bypassed is not None]

    assert [r.bypassed for r in dead_ones] == [expected]


def test_a_parameter_behind_a_cut_matters_and_an_unused_one_does_not(make_bench: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.unused, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.unused(x)
            return self.out(self.cut(x).detach())

    recording = record_trial(make_bench(classifier(Net)), steps=3)
    found = {p.name: p.matters for p in recording.parameters}

    assert found == {
        "cut.weight": True, "cut.bias": True, "unused.weight": False, "unused.bias": False, "out.weight": None, "out.bias": None,
    }  # fmt: skip


def test_loss_scaling_is_undone(make_bench: Any) -> None:
    """Under a GradScaler the recorded norms are those of the unscaled loss."""

    def setup(scaled: bool = True) -> dict[str, Any]:
        made = classifier(optimizer=torch.optim.SGD)()
        network, optimizer = made["model"], made["optimizer"]
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)

        def train_step(batch: Any) -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch[0]), batch[1])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss

        return {**made, "train_step": train_step}

    scaled = record_trial(make_bench(setup), steps=3)
    plain = record_trial(make_bench(lambda: setup(scaled=False)), steps=3)

    assert [s.grad_norm for s in scaled.steps] == pytest.approx([s.grad_norm for s in plain.steps], rel=1e-3)


def test_the_first_non_finite_gradient_is_named(make_bench: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.out = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.inp(x)
            return self.out(h * (h - h).pow(2).sum(1, keepdim=True).sqrt().add(1))

    recording = record_trial(make_bench(classifier(Net)), steps=10)

    assert recording.first_non_finite == ("gradient", "inp.weight", 0)
    assert len(recording.steps) < 10


def test_nan_in_a_batch_is_told_from_nan_in_training(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        inputs, labels = blobs()
        inputs[:] = math.nan
        return {**classifier()(), "train_loader": DataLoader(TensorDataset(inputs, labels), batch_size=32)}

    assert record_trial(make_bench(setup), steps=4).first_non_finite == ("input", "", 0)


def test_a_recording_survives_json(make_bench: Any) -> None:
    recording = record_trial(make_bench(classifier(conv_net)), steps=6)

    assert recordings.from_json(recordings.to_json(recording)) == recording


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 99}', '{"version": 1}'])
def test_what_is_no_recording_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        recordings.from_json(text)


def test_a_step_that_fails_later_ends_the_trial_and_is_told(make_bench: Any) -> None:
    def setup() -> dict[str, Any]:
        made = classifier()()
        batches = list(made["train_loader"])[:3]

        class Failing:
            def __iter__(self) -> Any:
                yield from batches
                raise OSError("disk on fire")

        return {**made, "train_loader": Failing()}

    recording = record_trial(make_bench(setup), steps=10)

    assert len(recording.steps) == 3
    assert "train_loader: OSError: disk on fire" in recording.failure


def test_without_an_optimizer_there_is_no_trial(make_bench: Any) -> None:
    setup = classifier()
    with pytest.raises(Skip, match="'optimizer'"):
        record_trial(make_bench(lambda: {**setup(), "optimizer": None}), steps=2)


def test_an_empty_loader_is_named(make_bench: Any) -> None:
    setup = classifier()
    with pytest.raises(UserCodeError, match="no batch"):
        record_trial(make_bench(lambda: {**setup(), "train_loader": []}), steps=2)


def test_sampled_steps_cover_the_trial() -> None:
    assert sample_steps(40) == (0, 1, 2, 4, 8, 13, 19, 25, 32, 39)
    assert sample_steps(3) == (0, 1, 2)
    assert sample_steps(100)[-1] == 99
