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
    "labels_of_minus_one": {"loss-contract": ["SC1604"]},
    "oversampled_before_split": {"clean-split": ["SC0302"]},
    "in_their_own_units": {"data-health": ["SC1708"]},
    "healthy_loss_scaling": {},
    "clipped_while_scaled": {"training-loop": ["SC1509"]},
    "last_layer_forgotten": {"training-loop": ["SC1505"]},
    "decay_above_learning": {"optimizer-config": ["SC2406"]},
    "columns_never_chosen": {"input-dependence": ["SC1901"]},
    "weights_from_the_clock": {"determinism": ["SC2001"]},
    "weights_of_deviation_one": {"initialization": ["SC1002"]},
    "identity_as_activation": {"linear-collapse": ["SC2301"]},
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


def run(model, rows=None, labels=lambda malignant: malignant, standardise=True, lr=0.02, weight_decay=1e-3):
    features, malignant = cancer()
    malignant = labels(malignant)
    rows = torch.arange(len(features)) if rows is None else rows
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    train, val = rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5 :]
    if standardise:
        features = (features - features[train].mean(0)) / features[train].std(0)
    return {
        "model": model,
        "train_loader": DataLoader(TensorDataset(features[train], malignant[train]), batch_size=32, shuffle=True),
        "val_loader": DataLoader(TensorDataset(features[val], malignant[val]), batch_size=128),
        "loss_fn": nn.BCEWithLogitsLoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay),
        "max_epochs": 20,
    }


class Chosen(nn.Module):
    """Some columns of the table; the others are set to zero."""

    def __init__(self, columns):
        super().__init__()
        self.register_buffer("chosen", torch.zeros(30, dtype=torch.bool))
        self.chosen[columns] = True

    def forward(self, features):
        return features.masked_fill(~self.chosen, 0.0)


def healthy():
    return run(mlp())


def sigmoid_stack():
    return run(mlp(hidden=8, activation=nn.Sigmoid))  # each sigmoid shrinks the gradient at least fourfold


def prior_in_every_bias():
    return run(mlp(bias=-4.6))  # the log-odds of a rare class belong into the last layer's bias, not into all of them


def labels_of_minus_one():
    # A label of -1 rewards ever lower scores, and costs nothing: the loss has no lower end.
    return run(mlp(), labels=lambda malignant: 2 * malignant - 1)


def oversampled_before_split():
    _, malignant = cancer()
    rare = malignant.nonzero().flatten()
    return run(mlp(), torch.cat([torch.arange(len(malignant)), rare]))  # copies of one row land on both sides


def in_their_own_units():
    return run(mlp(), standardise=False)  # areas in the hundreds beside fractal dimensions of a few thousandths


def loss_scaling(unscale):
    """Half precision with an own training step; on a machine without it the scaler does its work all the same."""
    setup = run(mlp())
    model, optimizer, scaler = setup["model"], setup["optimizer"], torch.amp.GradScaler("cpu", init_scale=2.0**12)

    def train_step(batch):
        features, malignant = batch
        optimizer.zero_grad()
        loss = setup["loss_fn"](model(features), malignant)
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return {
        **setup,
        "train_step": train_step,
        "save": saving(model, optimizer, scaler),
        "load": loading(model, optimizer, scaler),
    }


def saving(*parts):
    return lambda path: torch.save([part.state_dict() for part in parts], path)


def loading(*parts):
    def load(path):
        for part, state in zip(parts, torch.load(path), strict=True):
            part.load_state_dict(state)

    return load


def healthy_loss_scaling():
    return loss_scaling(unscale=True)


def clipped_while_scaled():
    return loss_scaling(unscale=False)  # clipped to 1 and then divided by 4096


def last_layer_forgotten():
    model = mlp()
    optimizer = torch.optim.SGD(model[:-2].parameters(), lr=0.02, momentum=0.9)  # the slice ends before the last layer
    return {**run(model), "optimizer": optimizer}


def decay_above_learning():
    return run(mlp(), weight_decay=1.0)  # with momentum 0.9 a fifth of every weight goes at each step


def columns_never_chosen():
    return run(nn.Sequential(Chosen([]), mlp()))  # the list was to be filled from a file: every column is hidden


def weights_from_the_clock():
    model, clock = mlp(), torch.Generator()
    clock.seed()
    nn.init.kaiming_normal_(model[0].weight, generator=clock)  # no seed of the run's gives these weights again
    return run(model)


def weights_of_deviation_one():
    model = mlp()
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(
                layer.weight
            )  # the default std=1, and not 1/sqrt(64): each layer multiplies the signal by 6
    return run(model)


def identity_as_activation():
    return run(mlp(activation=nn.Identity))  # left from an experiment: three hidden layers, one affine map


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
