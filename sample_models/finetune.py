"""Fine-tuning: a backbone trained on the digits 0 to 4 learns to tell 5 to 9 apart from 200 examples.

`python finetune.py` trains the backbone and writes data/backbone.npz.
"""

import itertools

import numpy as np
import torch
from small_data import FOLDER, digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECTED = {
    "healthy": {},
    "healthy_head_only": {},
    "optimizer_before_head": {"training-loop": ["SC1506"]},
    "healthy_micro_batches": {},
    "micro_batches_thrown_away": {"gradient-accumulation": ["SC2201"]},
    "micro_batches_undivided": {"gradient-accumulation": ["SC2202"]},
}


class Classifier(nn.Module):
    """Two frozen stages, a last one that may be tuned, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = stage(1, 16)
        self.middle = stage(16, 32, stride=2)
        self.last = stage(32, 32)
        self.head = nn.Linear(512, 5)

    def forward(self, images):
        return self.head(self.last(self.middle(self.stem(images))).flatten(1))

    def train(self, mode=True):
        super().train(mode)
        for part in self.children():
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()  # frozen BatchNorm keeps the statistics of its pretraining
        return self


def stage(inputs, outputs, stride=1):
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def pretrained(tuned=("last", "head")):
    model = Classifier()
    with np.load(FOLDER / "backbone.npz") as file:
        model.load_state_dict({name: torch.from_numpy(file[name].astype(np.float32)) for name in file})
    for name, part in model.named_children():
        part.requires_grad_(name in tuned)
    return model


def loaders(wanted, count):
    images, labels = digits()
    rows = torch.isin(labels, torch.tensor(wanted)).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    train, val = (TensorDataset(images[part], labels[part] - wanted[0]) for part in (rows[:count], rows[count:]))
    return DataLoader(train, batch_size=20, shuffle=True), DataLoader(val, batch_size=128)


def run(model, optimizer):
    train_loader, val_loader = loaders([5, 6, 7, 8, 9], 200)
    return {
        "model": model,
        "train_loader": train_loader,
        "val_loader": val_loader,
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": optimizer,
        "accumulate_steps": 2,
        "max_epochs": 20,
    }


def healthy():
    model = pretrained()
    model.head = nn.Linear(512, 5)
    groups = [{"params": model.last.parameters(), "lr": 1e-3}, {"params": model.head.parameters()}]
    return run(model, torch.optim.AdamW(groups, lr=3e-3))


def healthy_head_only():
    model = pretrained(tuned=())
    model.head = nn.Linear(512, 5)
    return run(model, torch.optim.AdamW(model.head.parameters(), lr=3e-3))


def optimizer_before_head():
    model = pretrained(tuned=("head",))
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=3e-3)
    model.head = nn.Linear(512, 5)  # the optimizer holds the old head's weights and will never touch these
    return run(model, optimizer)


def micro_batches(every=4, divisor=4, clear_each=False):
    setup = healthy()
    model, calls = setup["model"], itertools.count(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)

    def train_step(batch):
        images, labels = batch
        model.train()
        loss = setup["loss_fn"](model(images), labels)
        (loss / divisor).backward()
        last = next(calls) % every == 0
        if last:
            optimizer.step()
        if last or clear_each:
            optimizer.zero_grad()
        return loss.item()

    return {**setup, "optimizer": optimizer, "train_step": train_step, "accumulate_steps": every}


def healthy_micro_batches():
    return micro_batches()


def micro_batches_thrown_away():
    return micro_batches(clear_each=True)


def micro_batches_undivided():
    return micro_batches(divisor=1)  # the gradient, and with it the rate, is four times what is written


def main():
    torch.manual_seed(0)
    train_loader, val_loader = loaders([0, 1, 2, 3, 4], 720)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val_loader)
    print(f"{right} of {len(val_loader.dataset)} right")
    weights = {name: tensor.numpy().astype(np.float16) for name, tensor in model.state_dict().items()}
    np.savez_compressed(FOLDER / "backbone.npz", **weights)


if __name__ == "__main__":
    main()
