"""Three small data sets that ship with the samples. Sources and licences: data/README.md."""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "data"


def digits():
    """Handwritten digits: images (1797, 1, 8, 8) in 0..1, and labels (1797,)."""
    with np.load(FOLDER / "digits.npz") as file:
        images = torch.from_numpy(file["images"]).float().div(16).unsqueeze(1)
        return images, torch.from_numpy(file["labels"]).long()


def cancer():
    """Breast tumours: 30 measurements in their own units (569, 30), and whether malignant (569,), 0. or 1."""
    with np.load(FOLDER / "cancer.npz") as file:
        return torch.from_numpy(file["features"]), torch.from_numpy(file["malignant"]).float()


def alice():
    """The first pages of Alice in Wonderland: 13,730 character ids, and the alphabet of 61 that they index."""
    text = (FOLDER / "alice.txt").read_text(encoding="ascii")
    alphabet = sorted(set(text))
    return torch.tensor([alphabet.index(character) for character in text]), alphabet
