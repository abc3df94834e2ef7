"""Data are read by a process that has to import the set-up anew."""

import torch
from parts import parts
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.full((6,), index / 64), index // 32


def setup():
    return parts(val_loader=DataLoader(Numbers(), batch_size=16, num_workers=1, multiprocessing_context="spawn"))
