from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Outcome
from stabcheck.experiments.precision import CHECK
from stabcheck.trial.recorder import record_trial
from tests.setups import blobs, classifier, mlp

MakeBench = Callable[..., Any]


def judge(make_bench: MakeBench, function: Callable[[], Any], seed: int = 0, steps: int = 24) -> Outcome:
    bench = make_bench(function, seed=seed)
    bench.recording = record_trial(bench, steps=steps)
    outcome: Outcome = CHECK.run(bench)
    return outcome


def found(outcome: Outcome) -> set[tuple[str, str]]:
    return {(finding.code, finding.severity) for finding in outcome.findings}


class Cast(nn.Module):
    """A network in half precision with float32 at both ends."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = mlp().to(dtype), dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x.to(self.net[0].weight.dtype)).float()
        return out


def scaled_step(
    kind: str = "right",
    *,
    init_scale: float = 2.0**12,
    growth_interval: int = 2000,
    dtype: torch.dtype = torch.float16,
    factor: float = 1.0,
    **keys: Any,
) -> dict[str, Any]:
    """The user's own step under autocast with a GradScaler, handled as `kind` says."""
    keys = {"loss_fn": lambda o, t: factor * F.cross_entropy(o, t), **keys}
    made = classifier(optimizer=partial(torch.optim.SGD, momentum=0.9), **keys)()
    model, optimizer = made["model"], made["optimizer"]
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)

    def train_step(batch: Any) -> float:
        model.train()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = made["loss_fn"](model(batch[0]), batch[1])
        if kind == "none":
            loss.backward()
            optimizer.step()
            return float(loss)
        scaler.scale(loss).backward()
        if kind == "around":
            optimizer.step()
        elif kind == "by hand":
            for p in model.parameters():
                p.grad /= scaler.get_scale()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        else:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        return float(loss)

    return {**made, "train_step": train_step}


class Overflowing(nn.Module):
    """Its squares exceed 65504."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(300 * x) ** 2
        return self.rest(hidden * 1e-4)  # type: ignore[no-any-return]


def huge(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 10 * F.cross_entropy(outputs, targets)


def integers(where: str) -> dict[str, Any]:
    """Bytes as inputs, centred before or after they become floats."""
    inputs, labels = blobs()
    pixels = (inputs * 20 + 128).clamp(0, 255).to(torch.uint8)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = (x - 128).float() if where == "forward" else x.float() - 128
            return self.net(x / 20)  # type: ignore[no-any-return]

    def collate(rows: list[Any]) -> Any:
        x, y = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        return (x * 2, y) if where == "collate" else (x, y)

    model = Net()
    return {
        "model": model,
        "train_loader": DataLoader(TensorDataset(pixels, labels), batch_size=32, shuffle=True, collate_fn=collate),
        "loss_fn": F.cross_entropy,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-2),
        "max_steps": 100,
    }


def large_offsets() -> dict[str, Any]:
    """Targets around 1e5, subtracted in bfloat16: neighbours are 512 apart."""
    inputs, _ = blobs()
    targets = 1e5 + inputs[:, :1]
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    nn.init.constant_(model[2].bias, 1e5)

    def loss_fn(outputs: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return (outputs - given.to(outputs.dtype)).float().square().mean()

    return {
        "model": model,
        "train_loader": DataLoader(TensorDataset(inputs, targets), batch_size=32, shuffle=True),
        "loss_fn": loss_fn,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "precision": "bf16",
        "max_steps": 100,
    }


def weights_in(dtype: torch.dtype, lr: float, optimizer: Any = torch.optim.AdamW) -> Callable[[], dict[str, Any]]:
    return classifier(lambda: Cast(dtype), lr=lr, optimizer=optimizer)


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


HALF, BRAIN = torch.float16, torch.bfloat16
FAULTY: dict[str, tuple[Callable[[], Any], set[tuple[str, str]]]] = {
    "optimizer stepped around the scaler": (partial(scaled_step, "around", lr=1e-6), {("SC2101", "fail")}),
    "no scaler": (partial(scaled_step, "none"), {("SC2103", "warn")}),
    "no scaler and a tiny loss": (partial(scaled_step, "none", factor=1e-7), {("SC2103", "fail")}),
    "differences of large numbers": (large_offsets, {("SC2104", "fail")}),
    "small rate": (weights_in(BRAIN, 3e-5), {("SC2105", "fail")}),
    "eps of float32 in float16": (weights_in(HALF, 1e-3, torch.optim.Adam), {("SC2106", "fail")}),
    "bytes below the mean": (partial(integers, "forward"), {("SC2107", "fail")}),
    "bytes doubled": (partial(integers, "collate"), {("SC2107", "fail")}),
    "overflow under the scaler": (partial(scaled_step, model=Overflowing, lr=1e-3), {("SC2108", "fail")}),
    "overflow": (classifier(Overflowing, precision="fp16", optimizer=torch.optim.SGD, lr=1e-9), {("SC2108", "fail")}),
    "scale that grows at once": (
        partial(scaled_step, init_scale=2.0**16, growth_interval=1, loss_fn=huge),
        {("SC2102", "fail")},
    ),
}
HEALTHY: dict[str, Callable[[], Any]] = {
    "float32": classifier(),
    "float64": classifier(lambda: nn.Sequential(Double(), mlp().double())),
    "bf16": classifier(precision="bf16"),
    "fp16": classifier(precision="fp16"),
    "own scaler": scaled_step,
    "scale that must fall first": partial(scaled_step, init_scale=2.0**26),
    "unscaled by hand": partial(scaled_step, "by hand"),
    "own autocast to bfloat16": partial(scaled_step, "none", dtype=BRAIN),
    "weights in bfloat16 at a large rate": weights_in(BRAIN, 1e-2),
    "batch norm": classifier(
        lambda: nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)), precision="bf16"
    ),
    "bytes": partial(integers, "nowhere"),
    "accumulation": classifier(precision="fp16", accumulate_steps=4),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FAULTY)
def test_numbers_that_are_lost_are_found(make_bench: MakeBench, name: str, seed: int) -> None:
    setup, expected = FAULTY[name]

    assert found(judge(make_bench, setup, seed)) == expected


@pytest.mark.parametrize("name", HEALTHY)
def test_sound_use_is_silent(make_bench: MakeBench, name: str) -> None:
    outcome = judge(make_bench, HEALTHY[name])

    assert not outcome.findings
    assert not outcome.not_checked


def test_wrapped_bytes_are_traced_to_the_users_line(make_bench: MakeBench) -> None:
    (finding,) = judge(make_bench, partial(integers, "forward")).findings

    assert finding.source is not None
    assert finding.source[0] == __file__
    below = (blobs()[0] * 20 + 128).clamp(0, 255).to(torch.uint8) < 128
    assert finding.evidence["share"] == pytest.approx(float(below.float().mean()), abs=0.1)


def test_a_schedule_that_ends_low_loses_more_than_its_peak(make_bench: MakeBench) -> None:
    def setup() -> dict[str, Any]:
        made = weights_in(BRAIN, 1e-2)()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made["optimizer"], 500)
        return {**made, "scheduler": scheduler, "scheduler_interval": "step"}

    measured = judge(make_bench, setup).measurements

    assert measured["lost_at_peak"] < measured["lost_over_run"] < measured["lost_at_end"]


@pytest.mark.parametrize(("weight", "severity"), [(1e-6, "fail"), (1e-8, "fail"), (1.0, "warn")])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_of_the_steps_own_loss_may_underflow(
    make_bench: Any, weight: float, severity: str, seed: int
) -> None:
    def setup() -> dict[str, Any]:
        x = torch.randn(128, 16)
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def train_step(batch: Any) -> torch.Tensor:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(batch[0]), batch[1])
            (loss * weight).backward()
            optimizer.step()
            return loss.detach()

        loader = DataLoader(TensorDataset(x, x[:, :4].argmax(1)), batch_size=32)
        return {"model": model, "train_loader": loader, "loss_fn": F.cross_entropy, "optimizer": optimizer,
                "train_step": train_step}  # fmt: skip

    bench = make_bench(setup, seed=seed)
    bench.recording = record_trial(bench, steps=5)

    assert [(f.code, f.severity) for f in CHECK.run(bench).findings] == [("SC2103", severity)]
