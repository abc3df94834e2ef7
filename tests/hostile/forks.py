"""A fork of it goes on as if it were the first."""

import os

from parts import parts


def setup():
    os.fork()
    return parts()
