"""Set-ups whose data are numbered by names, one function each."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

NAMES = [f"name {index}" for index in range(20)]


def _setup(inputs, labels, **changes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.ReLU(), nn.Linear(16, 20))
    optimizer = torch.optim.Adam(model.parameters())

    def save(path):
        torch.save([model.state_dict(), optimizer.state_dict()], path)

    def load(path):
        weights, moments = torch.load(path)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)

    own = {"model": model, "optimizer": optimizer, "loss_fn": F.cross_entropy, "save": save, "load": load}
    return own | {"train_loader": DataLoader(TensorDataset(inputs, labels), 32, shuffle=True)} | changes


def _data():
    source = torch.Generator().manual_seed(1)
    return torch.randn(256, 20, generator=source), torch.randint(0, 20, (256,), generator=source)


def labels_numbered(names=None):
    inputs, labels = _data()
    numbers = {name: index for index, name in enumerate(names or set(NAMES))}
    codes = torch.tensor([numbers[name] for name in NAMES])
    return _setup(inputs, codes[labels])


def labels_sorted():
    return labels_numbered(sorted(set(NAMES)))


def columns_in_order_of_names():
    inputs, labels = _data()
    return _setup(inputs[:, [NAMES.index(name) for name in set(NAMES)]], labels)


def seeded_by_name():
    _, labels = _data()
    source = torch.Generator().manual_seed(hash("bench") % 2**32)
    return _setup(torch.randn(256, 20, generator=source), labels)


def vocabulary_restored():
    """The checkpoint holds the names in the order that the weights know."""
    inputs, labels = _data()
    order = list(set(NAMES))
    setup = _setup(inputs, labels)

    def encode():
        codes = torch.tensor([order.index(name) for name in NAMES])
        setup["train_loader"].dataset.tensors = (inputs, codes[labels])

    def save(path):
        setup["save"](path)
        Path(path).with_suffix(".names").write_text("\n".join(order))

    def load(path):
        setup["load"](path)
        order[:] = Path(path).with_suffix(".names").read_text().split("\n")
        encode()

    encode()
    return setup | {"save": save, "load": load}


def weights_by_hash():
    inputs, labels = _data()
    setup = _setup(inputs, labels)
    with torch.no_grad():
        setup["model"][0].weight.mul_(1 + (hash("scale") % 1000) / 1000)
    return setup
