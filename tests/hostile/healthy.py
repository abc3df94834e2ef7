"""Nothing is wrong."""

from parts import parts


def setup():
    return parts()
