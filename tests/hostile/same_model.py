"""Builds its model once, on import."""

from parts import parts

MADE = parts()


def setup():
    return MADE
