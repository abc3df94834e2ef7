"""A LeNet without normalisation on 8x8 digits, described by a `TrainingSetup` instead of a dict."""

import torch
from small_data import digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from stabcheck import TrainingSetup

EXPECTED = {
    "healthy": {},
    "killed_by_rate": {"learning-rate": ["SC1201"]},
}


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def run(lr=0.003):
    train, val = random_split(TensorDataset(*digits()), [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    model = lenet()
    return TrainingSetup(
        model=model,
        train_loader=DataLoader(train, batch_size=64, shuffle=True),
        val_loader=DataLoader(val, batch_size=128),
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=lr),
        max_epochs=8,
    )


def healthy():
    return run()


def killed_by_rate():
    return run(lr=1.0)  # a rate for SGD: under Adam the first steps throw whole layers to where no input reaches them
