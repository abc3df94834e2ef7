"""Closes all files, as a daemon does."""

import os

from parts import parts


def setup():
    os.closerange(3, 256)
    return parts()
