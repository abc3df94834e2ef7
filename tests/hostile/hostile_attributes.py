"""Objects that raise when they are looked at."""

from parts import parts


class Loader:
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)

    def __len__(self):
        raise RuntimeError("no length today")

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} today")


def setup():
    loader = Loader.__new__(Loader)
    loader.__dict__["loader"] = parts()["train_loader"]
    return parts(train_loader=loader)
