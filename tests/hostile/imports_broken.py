"""A module of its own does not import."""

import raises_on_import


def setup():
    return raises_on_import.parts()
