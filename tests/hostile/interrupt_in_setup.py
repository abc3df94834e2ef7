"""Raises what Ctrl-C raises."""


def setup():
    raise KeyboardInterrupt
