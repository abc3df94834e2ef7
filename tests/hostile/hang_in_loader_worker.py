"""A DataLoader worker that waits for ever, as one that inherited a lock does."""

import time

import torch
from parts import parts
from torch.utils.data import DataLoader, Dataset


class Stuck(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        while index == 40:
            time.sleep(0.1)
        return torch.zeros(6), 0


def setup():
    return parts(train_loader=DataLoader(Stuck(), batch_size=16, num_workers=1))
