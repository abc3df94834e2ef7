"""An exit while reading data."""

import sys

from parts import parts


class Leaving:
    def __iter__(self):
        yield from parts()["val_loader"]
        sys.exit(0)


def setup():
    return parts(train_loader=Leaving())
