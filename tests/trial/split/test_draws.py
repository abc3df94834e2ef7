"""Augmentation is told from samples made up anew, and looked through where a dataset keeps its samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from stabcheck.trial.split.draws import is_one_sample, probe, underlying
from stabcheck.trial.split.samples import behind

IMAGES = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1)).cumsum(2).cumsum(3)


def jitter(image: torch.Tensor) -> torch.Tensor:
    flipped = image.flip(-1) if torch.rand(()) < 0.5 else image
    return flipped * (0.8 + 0.4 * torch.rand(())) + 0.3 * torch.randn_like(image)


class Held(Dataset[Any]):
    """Augments what it holds, in one of the usual forms."""

    def __init__(self, held: Any, augment: bool = True) -> None:
        self.held, self.augment = held, augment

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> Any:
        item = self.held[index]
        image = torch.as_tensor(item[0] if isinstance(item, tuple) else item)
        image = image.permute(2, 0, 1) if image.shape[-1] == 1 else image
        return (jitter(image) if self.augment else image), index % 3


class Files(Held):
    def __getitem__(self, index: int) -> Any:
        return jitter(IMAGES[index])[:, :5, :5], index % 3


class Crops(Held):
    """Windows at random places of long series: the rows are no samples."""

    def __getitem__(self, index: int) -> Any:
        start = int(torch.randint(0, 40, ()))
        return self.held[index][start : start + 10], 0


class MadeUp(Dataset[Any]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        values = torch.randn(12)
        return values, int(values.sum() > 0)


HELD: dict[str, Any] = {
    "tensor": IMAGES,
    "array, colours last": IMAGES.numpy().transpose(0, 2, 3, 1),
    "list of pairs": [(image, 0) for image in IMAGES],
    "dataset": Subset(list(IMAGES), range(200)),
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("augment", [True, False])
def test_stored_samples_are_recognised(name: str, augment: bool) -> None:
    source = behind(DataLoader(Subset(Held(HELD[name], augment), [7, 3, *range(20, 90)])), "train_loader")
    found = probe(source, 5.0, 0)
    below = underlying(source, found)
    assert bool(found.unstable) == augment
    assert below is not None
    assert below.given is source
    for position, index in ((0, 7), (1, 3), (2, 20)):
        assert np.allclose(below.read(position)["kept"].ravel(), IMAGES[index].numpy().ravel())


def test_file_names_are_samples() -> None:
    files = [(f"scans/{i}.png", i % 3) for i in range(200)]
    source = behind(DataLoader(ConcatDataset([Files(files[:50]), Files(files[50:])])), "val_loader")
    below = underlying(source, probe(source, 5.0, 0))
    assert below is not None
    assert [below.read(i)["kept"] for i in (0, 49, 50, 199)] == [f"scans/{i}.png" for i in (0, 49, 50, 199)]


def test_series_that_windows_are_drawn_from_are_no_samples() -> None:
    source = behind(DataLoader(Crops(torch.randn(100, 50))), "train_loader")
    assert underlying(source, probe(source, 5.0, 0)) is None


def test_augmented_samples_are_told_from_made_up_ones() -> None:
    augmented = behind(DataLoader(Held(IMAGES)), "train_loader")
    made_up = behind(DataLoader(MadeUp()), "train_loader")
    assert is_one_sample(probe(augmented, 5.0, 0))
    assert not is_one_sample(probe(made_up, 5.0, 0))
