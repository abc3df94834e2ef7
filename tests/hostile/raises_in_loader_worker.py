"""One bad record, in a process that reads data."""

from parts import parts
from torch.utils.data import DataLoader, Dataset


class Broken(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        raise ValueError(f"record {index} is damaged")


def setup():
    return parts(train_loader=DataLoader(Broken(), batch_size=16, num_workers=2))
