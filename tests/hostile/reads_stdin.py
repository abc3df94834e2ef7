"""Asks whether to overwrite."""

from parts import parts


def setup():
    input("overwrite? ")
    return parts()
