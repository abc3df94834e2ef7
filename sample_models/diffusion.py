"""A denoising diffusion model of 8x8 digits, with an average of its weights (EMA) and a training loop of its own."""

import copy
import math

import torch
from small_data import digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

EXPECTED = {
    "healthy": {},
    "target_drawn_again": {"one-batch-overfit": ["SC0106"]},
    "checkpoint_without_average": {"checkpoint-resume": ["SC0406"]},
}

EPOCHS = 15
SIGNAL = torch.cos(torch.linspace(0.02, 1.0, 100) * math.pi / 2) ** 2  # share of the image left at each of 100 times


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.time = nn.Linear(32, 2 * width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        nn.init.zeros_(self.down.weight)  # each block starts as the identity
        nn.init.zeros_(self.down.bias)

    def forward(self, x, time):
        scale, shift = self.time(time).chunk(2, dim=1)
        return x + self.down(F.silu(self.up(self.norm(x) * (1 + scale) + shift)))


class Denoiser(nn.Module):
    def __init__(self, width=128, depth=3):
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 2, 16))
        self.inlet = nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.outlet = nn.Linear(width, 64)

    def forward(self, noisy, times):
        angles = times[:, None] / len(SIGNAL) * self.frequencies
        time = torch.cat([angles.sin(), angles.cos()], dim=1)
        x = self.inlet(noisy)
        for block in self.blocks:
            x = block(x, time)
        return self.outlet(x)


def noised(batch):
    """The images with some noise mixed in, how long it was mixed, and the noise."""
    (images,) = batch
    clean = images.flatten(1) * 2 - 1
    times = torch.randint(len(SIGNAL), (len(clean),))
    share = SIGNAL[times, None]
    noise = torch.randn_like(clean)
    return share.sqrt() * clean + (1 - share).sqrt() * noise, times, noise


def noise_loss(model, batch):
    """How well the model finds the noise that is in the images (Ho et al., 2020)."""
    noisy, times, noise = noised(batch)
    return F.mse_loss(model(noisy, times), noise)


def run(loss=noise_loss, saved=("model", "average", "optimizer", "scheduler")):
    images, _ = digits()
    train, val = random_split(TensorDataset(images), [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    train_loader = DataLoader(train, batch_size=64, shuffle=True)
    val_loader = DataLoader(val, batch_size=128)
    model = Denoiser()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = EPOCHS * len(train_loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    parts = {"model": model, "average": average, "optimizer": optimizer, "scheduler": scheduler}

    def train_step(batch):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
        return value.item()

    def validate():
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)  # the same noise each time
            return sum(loss(average, batch).item() for batch in val_loader) / len(val_loader)

    def save(path):
        torch.save({name: parts[name].state_dict() for name in saved}, path)

    def load(path):
        for name, state in torch.load(path).items():
            parts[name].load_state_dict(state)

    return {
        "model": model,
        "train_loader": train_loader,
        "val_loader": val_loader,
        "compute_loss": loss,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scheduler_interval": "step",
        "max_epochs": EPOCHS,
        "train_step": train_step,
        "validate": validate,
        "save": save,
        "load": load,
    }


def healthy():
    return run()


def target_drawn_again():
    def loss(model, batch):
        noisy, times, noise = noised(batch)
        return F.mse_loss(model(noisy, times), torch.randn_like(noise))  # other noise than the images hold

    return run(loss)


def checkpoint_without_average():
    return run(saved=("model", "optimizer", "scheduler"))  # the average starts again from the untrained weights
