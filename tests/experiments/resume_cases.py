"""Set-ups for the checkpoint-resume tests: `setup(model=..., optim=..., fault=...)`. `fault` names what save or load omits or
spoils; "" is healthy."""

from __future__ import annotations

import copy
import functools
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

TOKENS, CLASSES = 12, 3
state = {"calls": 0}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 8)
        self.lstm = nn.LSTM(8, 12, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(self.lstm(self.embedding(x))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.norm(self.encoder(self.embedding(x)).mean(1)))


def build_model(kind):
    if kind == "mlp":
        return nn.Sequential(nn.Linear(10, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, CLASSES))
    if kind == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(6 * 16, CLASSES)
        )
    return Recurrent() if kind == "lstm" else Attention()


def build_data(kind):
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, CLASSES, (160,), generator=g)
    if kind in {"mlp", "cnn"}:
        x = torch.randn(160, 10 if kind == "mlp" else 36, generator=g) + y[:, None]
        return TensorDataset(x if kind == "mlp" else x.view(-1, 1, 6, 6), y)
    return TensorDataset((torch.randint(0, TOKENS, (160, 7), generator=g) + y[:, None]) % TOKENS, y)


def build_optimizer(kind, parameters):
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=3e-3)


class Trainer:
    """The same run as an object with methods."""

    def __init__(self, model, optimizer, scheduler):
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.step, self.history = 0, []

    def train_step(self, batch):
        x, y = batch
        self.model.train()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        self.history.append(loss.item())
        for p, q in zip(self.average.parameters(), self.model.parameters(), strict=True):
            p.lerp_(q.detach(), 0.05)
        return loss

    def save(self, path, skip=""):
        parts = {k: getattr(self, k).state_dict() for k in ("model", "optimizer", "scheduler", "average") if k != skip}
        torch.save(parts, path)

    def load(self, path):
        for key, value in torch.load(path).items():
            getattr(self, key).load_state_dict(value)


def trainer(model: str = "mlp", optim: str = "adam", fault: str = "", seed: int = 0):
    torch.manual_seed(seed)
    net = build_model(model)
    optimizer = build_optimizer(optim, net.parameters())
    t = Trainer(net, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50))
    return {
        "model": net,
        "train_loader": DataLoader(build_data(model), 16, shuffle=True),
        "optimizer": optimizer,
        "scheduler": t.scheduler,
        "train_step": t.train_step,
        "save": functools.partial(t.save, skip=fault),
        "load": t.load,
    }


def textbook(model: str = "mlp", optim: str = "adam", fault: str = "", seed: int = 0):
    """Without save and load."""
    torch.manual_seed(seed)
    net = build_model(model)
    optimizer = build_optimizer(optim, net.parameters())
    return {
        "model": net,
        "train_loader": DataLoader(build_data(model), 16, shuffle=True),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "scheduler_interval": "epoch",
    }


def setup(model: str = "mlp", optim: str = "adam", fault: str = "", seed: int = 0):
    """The textbook loop, with the user's own checkpoint."""
    torch.manual_seed(seed)
    net = build_model(model)
    optimizer = build_optimizer(optim, net.parameters())
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 20)

    def save(path):
        weights = net.state_dict()
        if fault == "buffers":
            weights = dict(net.named_parameters())
        elif fault == "head":
            weights = {k: v for k, v in weights.items() if not k.startswith(("head", "4", "5"))}
        elif fault == "half":
            weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        elif fault == "prefix":
            weights = {f"module.{k}": v for k, v in weights.items()}
        parts = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "weights": weights}
        if fault == "adam step":
            parts["optimizer"] = copy.deepcopy(parts["optimizer"])
            for item in parts["optimizer"]["state"].values():
                item["step"] = torch.tensor(0.0)
        parts.update(rng=torch.get_rng_state(), numpy=np.random.get_state(), python=random.getstate())
        torch.save({k: v for k, v in parts.items() if k != fault}, path)

    def load(path):
        parts = torch.load(path, weights_only=False)
        if fault == "nothing":
            return
        net.load_state_dict(parts["weights"], strict=False)
        if "optimizer" in parts:
            optimizer.load_state_dict(parts["optimizer"])
        if "scheduler" in parts:
            scheduler.load_state_dict(parts["scheduler"])
        if fault == "rate":
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.3
        if fault == "detached":
            for module in list(net.modules()):
                for name, p in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(p.detach().clone()))
        if "rng" in parts and fault != "random":
            torch.set_rng_state(parts["rng"])

    return {
        "model": net,
        "train_loader": DataLoader(build_data(model), 16, shuffle=True),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": optimizer,
        "scheduler": scheduler,
        "save": save,
        "load": load,
    }
