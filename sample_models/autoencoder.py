"""Autoencoders of 8x8 digits: a plain one with a loss_fn, and a variational one, whose loss needs more than its outputs."""

import torch
from small_data import digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

EXPECTED = {
    "healthy": {},
    "healthy_variational": {},
    "missing_channel_axis": {"loss-contract": ["SC1603"]},
    "epsilon_outside_the_root": {"gradient-norms": ["SC0201"]},
    "three_images_not_scaled": {"loss-trend": ["SC1302"]},
}


class PixelNorm(nn.Module):
    """The channels of each pixel divided by their root mean square (Karras et al., 2018)."""

    def forward(self, x):
        return x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class PixelNormWithLateEpsilon(nn.Module):
    def forward(self, x):
        return x / (x.pow(2).mean(1, keepdim=True).sqrt() + 1e-6)  # the root has an infinite gradient at 0: blank paper


def encoder(outputs, norm=PixelNorm):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        norm(),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        norm(),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(128, outputs),
    )


def decoder(inputs, shape=(1, 8, 8)):
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid(), nn.Unflatten(1, shape))


class VAE(nn.Module):
    def __init__(self, norm=PixelNorm, latent=8):
        super().__init__()
        self.encoder = encoder(2 * latent, norm)
        self.decoder = decoder(latent)

    def forward(self, images):
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * torch.exp(0.5 * log_variance)), mean, log_variance


def negative_elbo(model, batch):
    """Squared error and divergence, weighted as for pixels with a standard deviation of 0.18."""
    images, _ = batch
    reconstruction, mean, log_variance = model(images)
    squared_error = (reconstruction - images).pow(2).mean()
    divergence = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return squared_error + 0.001 * divergence


def run(model, images=None, **loss):
    images = digits()[0] if images is None else images
    dataset = TensorDataset(images, images)
    train, val = random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return {
        "model": model,
        "train_loader": DataLoader(train, batch_size=64, shuffle=True),
        "val_loader": DataLoader(val, batch_size=128),
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3),
        "scheduler_interval": "epoch",
        "max_epochs": 20,
        **loss,
    }


def healthy():
    return run(nn.Sequential(encoder(8), decoder(8)), loss_fn=nn.MSELoss())


def healthy_variational():
    return run(VAE(), compute_loss=negative_elbo)


def missing_channel_axis():
    # (64, 8, 8) minus (64, 1, 8, 8) is (64, 64, 8, 8): every reconstruction is compared with every image.
    return run(nn.Sequential(encoder(8), decoder(8, shape=(8, 8))), loss_fn=nn.MSELoss())


def epsilon_outside_the_root():
    return run(VAE(norm=PixelNormWithLateEpsilon), compute_loss=negative_elbo)


def three_images_not_scaled():
    images, _ = digits()
    images[[100, 700, 1300]] *= 16  # added later, and never divided by the largest value as the others were
    return run(nn.Sequential(encoder(8), decoder(8)), images, loss_fn=nn.MSELoss())
