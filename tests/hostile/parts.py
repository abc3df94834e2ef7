"""What the hostile set-ups share: a small healthy one, to be spoilt."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def parts(**changes):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=generator)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    healthy = {
        "model": model,
        "train_loader": DataLoader(TensorDataset(x[:64], y[:64]), batch_size=16, shuffle=True),
        "val_loader": DataLoader(TensorDataset(x[64:], y[64:]), batch_size=16),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    return {**healthy, **changes}


def step_of(setup, before=lambda: None):
    """A train_step that first does something else."""

    def train_step(batch):
        before()
        inputs, targets = batch
        loss = setup["loss_fn"](setup["model"](inputs), targets)
        setup["optimizer"].zero_grad()
        loss.backward()
        setup["optimizer"].step()
        return loss

    return train_step
