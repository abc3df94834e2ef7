"""One bad record."""

import torch
from parts import parts
from torch.utils.data import DataLoader, Dataset


class Broken(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 40:
            raise ValueError(f"record {index} is damaged")
        return torch.zeros(6), 0


def setup():
    return parts(train_loader=DataLoader(Broken(), batch_size=16))
