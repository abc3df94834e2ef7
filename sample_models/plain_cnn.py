"""A LeNet without normalisation on 8x8 digits, described by a `TrainingSetup` instead of a dict."""

from dataclasses import replace

import torch
from small_data import digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from stabcheck import TrainingSetup

EXPECTED = {
    "healthy": {},
    "softmax_before_the_loss": {"loss-contract": ["SC1601"]},
    "sorted_by_digit": {"data-health": ["SC1704"]},
    "validated_on_raw_ink": {"data-health": ["SC1710"]},
    "healthy_own_step": {},
    "no_zero_grad": {"training-loop": ["SC1501"]},
    "bytes_below_zero": {"precision": ["SC2107"]},
    "weights_in_bfloat16": {"precision": ["SC2105"]},
    "equal_filters": {"initialization": ["SC1001"]},
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


def split(data=None):
    data = data or TensorDataset(*digits())
    return random_split(data, [0.8, 0.2], generator=torch.Generator().manual_seed(0))


class Bytes(torch.utils.data.Dataset):
    """Images as 0..16, as they come from a file, centred before they become floats: 3 - 8 is 251."""

    def __init__(self):
        images, self.labels = digits()
        self.images = (16 * images).byte()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return (self.images[index] - 8).float() / 128, self.labels[index]


def run(lr=0.003, last=(), model=None, data=None):
    train, val = split(data)
    model = model or lenet().extend(last)
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


def softmax_before_the_loss():
    return run(last=[nn.Softmax(dim=1)])  # CrossEntropyLoss applies its own: with two of them it stays above 1.46


def sorted_by_digit():
    setup = run()
    images, labels = split()[0][:]
    order = labels.argsort(stable=True)
    data = TensorDataset(images[order], labels[order])
    setup.train_loader = DataLoader(data, batch_size=64)  # zeros first, nines last: shuffle=True is missing
    return setup


def validated_on_raw_ink():
    setup = run()
    images, labels = split()[1][:]
    data = TensorDataset(images * 16, labels)  # training divides the ink by 16
    setup.val_loader = DataLoader(data, batch_size=128)
    return setup


def own_step(zero_grad):
    setup = run()
    model, optimizer = setup.model, torch.optim.SGD(setup.model.parameters(), lr=0.05, momentum=0.9)

    def train_step(batch):
        images, labels = batch
        if zero_grad:
            optimizer.zero_grad()
        loss = setup.loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return replace(setup, optimizer=optimizer, train_step=train_step)


def healthy_own_step():
    return own_step(zero_grad=True)


def no_zero_grad():
    return own_step(zero_grad=False)  # every gradient since the first step is in every step


def bytes_below_zero():
    return run(data=Bytes())


class HalfWeights(nn.Module):
    """The model was cast to save memory, and nothing keeps the digits that its updates need."""

    def __init__(self):
        super().__init__()
        self.net = lenet().bfloat16()

    def forward(self, images):
        return self.net(images.bfloat16()).float()


def weights_in_bfloat16():
    return run(lr=5e-5, model=HalfWeights())


def equal_filters():
    setup = run()
    for parameter in setup.model.parameters():
        nn.init.constant_(parameter, 0.02)  # all filters of a layer are one filter, and get the same gradient for ever
    return setup
