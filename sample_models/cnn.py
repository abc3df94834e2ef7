"""A small ResNet on 8x8 digits, with a training loop, validation and checkpoints of its own."""

import torch
from small_data import digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

EXPECTED = {
    "healthy": {},
    "validates_in_train_mode": {"eval-mode": ["SC0601"]},
    "stays_in_eval_mode": {"eval-mode": ["SC0607"]},
    "epochs_stepped_as_batches": {"lr-schedule": ["SC0505"]},
    "saves_no_buffers": {"checkpoint-resume": ["SC0402"]},
}

BATCHES_PER_EPOCH = 23  # 1,438 images in batches of 64


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)  # each block starts as the identity

    def forward(self, x):
        branch = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(branch)))


def resnet():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
    )


def run(decay_every=10 * BATCHES_PER_EPOCH):
    dataset = TensorDataset(*digits())
    train, val = random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    train_loader = DataLoader(train, batch_size=64, shuffle=True)
    val_loader = DataLoader(val, batch_size=128)
    model = resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=decay_every, gamma=0.1)

    def train_step(batch):
        images, labels = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    def validate():
        model.eval()
        with torch.no_grad():
            correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val_loader)
        model.train()
        return correct / len(val)

    def save(path):
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        torch.save({name: part.state_dict() for name, part in parts.items()}, path)

    def load(path):
        checkpoint = torch.load(path)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])

    return {
        "model": model,
        "train_loader": train_loader,
        "val_loader": val_loader,
        "loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1),
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scheduler_interval": "step",
        "max_epochs": 15,
        "train_step": train_step,
        "validate": validate,
        "save": save,
        "load": load,
    }


def healthy():
    return run()


def validates_in_train_mode():
    parts = healthy()
    model, val_loader = parts["model"], parts["val_loader"]

    def validate():
        with torch.no_grad():  # no model.eval(): dropout is on, and BatchNorm learns from the validation data
            correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val_loader)
        return correct / len(val_loader.dataset)

    return {**parts, "validate": validate}


def stays_in_eval_mode():
    parts = healthy()
    model, val_loader = parts["model"], parts["val_loader"]

    def validate():
        model.eval()  # and never model.train(): after the first validation there is no dropout and no BatchNorm update
        with torch.no_grad():
            correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val_loader)
        return correct / len(val_loader.dataset)

    return {**parts, "validate": validate}


def epochs_stepped_as_batches():
    return run(decay_every=10)  # ten epochs were meant, but train_step steps the schedule at each batch


def saves_no_buffers():
    parts = healthy()
    model, optimizer, scheduler = parts["model"], parts["optimizer"], parts["scheduler"]

    def save(path):
        weights = dict(model.named_parameters())  # the running statistics of BatchNorm are buffers, not parameters
        torch.save({"model": weights, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, path)

    def load(path):
        checkpoint = torch.load(path)
        model.load_state_dict(checkpoint["model"], strict=False)
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])

    return {**parts, "save": save, "load": load}
