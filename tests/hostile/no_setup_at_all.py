"""Forgets to return."""

from parts import parts


def setup():
    parts()
