"""Set-ups whose validation is right, odd or wrong, with what eval-mode must say of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.setups import blobs

Setup = dict[str, Any]
Validate = Callable[[Setup], Callable[[], Any]]


class Net(nn.Module):
    """`inner` between two linear layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(16, 32), inner, nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.inner(torch.relu(self.first(x))))


class Attention(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x.reshape(-1, 4, 8)).reshape(-1, 32)


class Recurrent(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, 2, dropout=dropout, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.lstm(x.reshape(-1, 4, 8))[0].reshape(-1, 32)


def setup(inner: Callable[[], nn.Module], validate: Validate | None = None, *, train_mode: bool = True) -> Setup:
    """A classifier with its own train_step; the step sets training mode itself if `train_mode`."""
    inputs, labels = blobs()
    model = Net(inner())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def train_step(batch: Any) -> torch.Tensor:
        if train_mode:
            model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    parts: Setup = {
        "model": model,
        "train_loader": DataLoader(TensorDataset(inputs[:384], labels[:384]), batch_size=32, shuffle=True),
        "val_loader": DataLoader(TensorDataset(inputs[384:], labels[384:]), batch_size=32),
        "loss_fn": F.cross_entropy,
        "optimizer": optimizer,
        "max_epochs": 20,
        "train_step": train_step,
    }
    if validate is not None:
        parts["validate"] = validate(parts)
    return parts


def mean_loss(model: nn.Module, loader: Any) -> float:
    return sum(F.cross_entropy(model(x), y).item() for x, y in loader) / len(loader)


def careful(parts: Setup) -> Callable[[], Any]:
    """Eval mode, no gradients, and the old mode again."""
    model = parts["model"]

    @torch.no_grad()
    def validate() -> dict[str, float]:
        was = model.training
        model.eval()
        loss = mean_loss(model, parts["val_loader"])
        model.train(was)
        return {"val_loss": loss}

    return validate


def careless(parts: Setup) -> Callable[[], Any]:
    """As `careful`, without eval()."""

    @torch.no_grad()
    def validate() -> float:
        return mean_loss(parts["model"], parts["val_loader"])

    return validate


def leaves_eval(parts: Setup) -> Callable[[], Any]:
    @torch.no_grad()
    def validate() -> float:
        parts["model"].eval()
        return mean_loss(parts["model"], parts["val_loader"])

    return validate


def in_passes(passes: int) -> Validate:
    """Dropout stays on, and the loss is averaged over whole passes."""

    def make(parts: Setup) -> Callable[[], Any]:
        model = parts["model"]

        @torch.no_grad()
        def validate() -> float:
            model.eval()
            for module in model.modules():
                module.train(isinstance(module, nn.Dropout))
            return sum(mean_loss(model, parts["val_loader"]) for _ in range(passes)) / passes

        return validate

    return make


def monte_carlo(passes: int) -> Validate:
    def make(parts: Setup) -> Callable[[], Any]:
        model = parts["model"]

        @torch.no_grad()
        def validate() -> float:
            model.eval()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.train()
            total = 0.0
            for x, y in parts["val_loader"]:
                total += F.cross_entropy(torch.stack([model(x) for _ in range(passes)]).mean(0), y).item()
            model.train()
            return total

        return validate

    return make


class FunctionalDropout(nn.Module):
    """Dropout by function, guarded by the mode or not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> Any:
        if self.how == "guarded":
            return F.dropout(x, 0.3, training=self.training)
        if self.how == "default":
            return F.dropout(x, 0.3)
        if self.how == "nothing":
            return F.dropout(x, 0.0)
        if self.how == "attention":
            q = x.reshape(-1, 4, 8)
            return F.scaled_dot_product_attention(q, q, q, dropout_p=0.2).reshape(-1, 32)
        return torch.dropout(x, 0.3, True)


class MCDropout(nn.Dropout):
    """Active in both modes by design, and says so."""

    def forward(self, x: torch.Tensor) -> Any:
        return F.dropout(x, self.p, training=True)


class DropPath(nn.Module):
    """Written by hand, guarded by the mode or not."""

    def __init__(self, guarded: bool) -> None:
        super().__init__()
        self.guarded = guarded

    def forward(self, x: torch.Tensor) -> Any:
        if self.guarded and not self.training:
            return x
        return x * (torch.rand(len(x), 1) < 0.7) / 0.7


class Sampler(nn.Module):
    """Random by nature, in both modes, as a variational bottleneck."""

    def forward(self, x: torch.Tensor) -> Any:
        return x + 0.1 * torch.randn_like(x)


class DrawsInVain(nn.Module):
    """Draws a number for layer dropout in both modes and uses it in one, as some libraries do."""

    def forward(self, x: torch.Tensor) -> Any:
        dropout_probability = torch.rand([])
        return x * 0 if self.training and dropout_probability < 0.1 else x


class Hidden(nn.Module):
    """A module out of reach of eval(), in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Dropout(0.3)]

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers[0](x)


class Stubborn(nn.Module):
    """A train() that forgets the mode it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def train(self, mode: bool = True) -> Stubborn:
        super().train(True)
        return self

    def forward(self, x: torch.Tensor) -> Any:
        return self.drop(x)


class SwitchesItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> Any:
        self.drop.train()
        return self.drop(x)


class KeepsFrozen(nn.Module):
    """A train() that keeps BatchNorm frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(32)

    def train(self, mode: bool = True) -> KeepsFrozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(x)


class RunningScale(nn.Module):
    """A buffer that follows the data, guarded by the mode or not; or one that only counts."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("scale", torch.ones(32))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> Any:
        if self.how == "counts":
            self.calls += 1
        elif self.training or self.how == "always":
            with torch.no_grad():
                self.scale.lerp_(x.abs().mean(0) + 0.5, 0.3)
        return x / self.scale


def seeded(*, forked: bool, reseeds: bool = True) -> Validate:
    """Draws random numbers while validating, from a fixed seed or not, in a fork of the generator or not."""

    def make(parts: Setup) -> Callable[[], Any]:
        def validate() -> Any:
            with torch.random.fork_rng(enabled=forked):
                if reseeds:
                    torch.manual_seed(0)
                return careful(parts)()

        return validate

    return make


def averaged(*, in_eval: bool = True, follows: bool = True) -> Setup:
    """Validates an average of the weights, kept in a closure."""
    parts = setup(lambda: nn.Sequential(nn.BatchNorm1d(32), nn.Dropout(0.2)))
    model, step = parts["model"], parts["train_step"]
    average = copy.deepcopy(model).requires_grad_(False)
    average.train(not in_eval)

    def train_step(batch: Any) -> Any:
        loss = step(batch)
        if follows:
            with torch.no_grad():
                for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                    kept.copy_(kept * 0.9 + new * 0.1)
        return loss

    @torch.no_grad()
    def validate() -> float:
        return mean_loss(average, parts["val_loader"])

    return {**parts, "train_step": train_step, "validate": validate}


def swapped(*, back: bool) -> Setup:
    """Validates with other weights, put back or not."""

    def make(parts: Setup) -> Callable[[], Any]:
        model = parts["model"]

        @torch.no_grad()
        def validate() -> float:
            kept = copy.deepcopy(model.state_dict())
            for parameter in model.parameters():
                parameter.mul_(0.9)
            loss = careful(parts)()
            if back:
                model.load_state_dict(kept)
            return float(loss["val_loss"])

        return validate

    return setup(nn.Identity, make)


def backward(*, zero_first: bool = True, attack: bool = False, clean: bool = False, own_step: bool = True) -> Setup:
    """Calls backward() while validating; `attack` for the gradient of the inputs."""

    def make(parts: Setup) -> Callable[[], Any]:
        model = parts["model"]

        def validate() -> float:
            total = 0.0
            for x, y in parts["val_loader"]:
                x = x.clone().requires_grad_(attack)
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                total += loss.item()
            if clean:
                model.zero_grad()
            return total

        return validate

    parts = setup(nn.Identity, make)
    model, optimizer = parts["model"], parts["optimizer"]

    def train_step(batch: Any) -> Any:
        if zero_first:
            optimizer.zero_grad()
        for x, y in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
            (F.cross_entropy(model(x), y) / 2).backward()
        optimizer.step()
        if not zero_first:
            optimizer.zero_grad()

    parts["train_step"] = train_step if own_step else None
    return parts


def probes() -> Setup:
    """Trains a probe of its own, with dropout, on the features."""

    def make(parts: Setup) -> Callable[[], Any]:
        model, (inputs, labels) = parts["model"], parts["val_loader"].dataset.tensors

        def validate() -> float:
            with torch.no_grad():
                features = model.first(inputs)
            probe = nn.Sequential(nn.Dropout(0.1), nn.Linear(32, 4))
            optimizer = torch.optim.Adam(probe.parameters())
            for _ in range(5):
                optimizer.zero_grad()
                F.cross_entropy(probe(features), labels).backward()
                optimizer.step()
            return float((probe.eval()(features).argmax(1) == labels).float().mean())

        return validate

    return setup(nn.Identity, make)


def noisy_loss(parts: Setup) -> Callable[[], Any]:
    """Dropout as part of the loss, outside of the model."""
    model = parts["model"]

    @torch.no_grad()
    def validate() -> float:
        return sum(F.cross_entropy(F.dropout(model(x), 0.1), y).item() for x, y in parts["val_loader"])

    return validate


def trains() -> Setup:
    def make(parts: Setup) -> Callable[[], Any]:
        return lambda: [float(parts["train_step"](batch).detach()) for batch in parts["val_loader"]]

    return setup(nn.Identity, make)


def over(keys: tuple[str, ...], *, give_val: bool = True) -> Setup:
    """Validates over the named loaders."""
    parts = setup(nn.Identity)
    loaders = [parts[key] for key in keys]

    @torch.no_grad()
    def validate() -> list[float]:
        return [mean_loss(parts["model"], loader) for loader in loaders]

    return {**parts, "validate": validate, "val_loader": parts["val_loader"] if give_val else None}


def keeps_graphs(*, item: bool) -> Setup:
    def make(parts: Setup) -> Callable[[], Any]:
        loader = DataLoader(parts["val_loader"].dataset, batch_size=16)

        def validate() -> float:
            total: Any = 0.0
            for x, y in loader:
                loss = F.cross_entropy(parts["model"](x), y)
                total = total + (loss.item() if item else loss)
            return float(total)

        return validate

    return setup(nn.Identity, make)


def frozen_norm(*, woken: bool) -> Setup:
    """Trains with BatchNorm frozen; validating wakes it or not."""

    def make(parts: Setup) -> Callable[[], Any]:
        model = parts["model"]
        model.inner.eval()

        @torch.no_grad()
        def validate() -> float:
            modes = {module: module.training for module in model.modules()}
            model.eval()
            loss = mean_loss(model, parts["val_loader"])
            for module, mode in modes.items():
                module.training = mode or woken
            return loss

        return validate

    return setup(lambda: nn.BatchNorm1d(32), make, train_mode=False)


def disturbing(what: str) -> Setup:
    """Leaves something else behind: gradients off, frozen or double parameters, an exhausted iterator."""

    def make(parts: Setup) -> Callable[[], Any]:
        model, once = parts["model"], iter(list(parts["val_loader"]))

        def validate() -> float:
            if what == "used up":
                losses = [F.cross_entropy(model(x), y).item() for x, y in once]
                return sum(losses) / max(1, len(losses))
            if what == "grad off":
                torch.set_grad_enabled(False)
            if what == "frozen":
                model.requires_grad_(False)
            if what == "double":
                model.double()
            kind = next(model.parameters()).dtype
            return sum(F.cross_entropy(model(x.to(kind)), y).item() for x, y in parts["val_loader"])

        return validate

    return setup(nn.Identity, make)
