"""A multilayer perceptron on a table: is the tumour malignant? (569 rows, 30 features)

The shortest way to describe a run: model, loaders, loss and optimizer. The training loop is the textbook one.
"""

import itertools

import torch
from small_data import cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECTED = {
    "healthy": {},
    "sigmoid_stack": {"vanishing-gradients": ["SC0701"]},
    "prior_in_every_bias": {"dying-relu": ["SC0901"]},
    "oversampled_before_split": {"clean-split": ["SC0302"]},
    "validates_on_a_dozen": {"overfitting": ["SC1401"]},
    "rate_of_a_fine_tuning": {"learning-rate": ["SC1202"]},
}


def mlp(hidden=3, activation=nn.ReLU, bias=0.0):
    sizes = [30] + [64] * hidden
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(layer.weight)
        nn.init.constant_(layer.bias, bias)
        layers += [layer, activation()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(64, 1), nn.Flatten(0))


def run(model, rows=None, lr=0.02):
    features, malignant = cancer()
    rows = torch.arange(len(features)) if rows is None else rows
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    train, val = rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5 :]
    features = (features - features[train].mean(0)) / features[train].std(0)
    return {
        "model": model,
        "train_loader": DataLoader(TensorDataset(features[train], malignant[train]), batch_size=32, shuffle=True),
        "val_loader": DataLoader(TensorDataset(features[val], malignant[val]), batch_size=128),
        "loss_fn": nn.BCEWithLogitsLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3),
        "max_epochs": 20,
    }


def healthy():
    return run(mlp())


def sigmoid_stack():
    return run(mlp(hidden=8, activation=nn.Sigmoid))  # each sigmoid shrinks the gradient at least fourfold


def prior_in_every_bias():
    return run(mlp(bias=-4.6))  # the log-odds of a rare class belong into the last layer's bias, not into all of them


def oversampled_before_split():
    _, malignant = cancer()
    rare = malignant.nonzero().flatten()
    return run(mlp(), torch.cat([torch.arange(len(malignant)), rare]))  # copies of one row land on both sides


def validates_on_a_dozen():
    features, malignant = cancer()
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    features = (features - features[rows[12:]].mean(0)) / features[rows[12:]].std(0)
    val = TensorDataset(
        features[rows[:12]], malignant[rows[:12]]
    )  # "a dozen will do", and a lucky epoch becomes the best model
    train = TensorDataset(features[rows[12:]], malignant[rows[12:]])
    return {
        **run(mlp()),
        "train_loader": DataLoader(train, batch_size=32, shuffle=True),
        "val_loader": DataLoader(val, batch_size=12),
    }


def rate_of_a_fine_tuning():
    return run(mlp(), lr=1e-6)  # copied with the rest of the settings from a run that polished a trained model
