"""An exception that cannot be shown."""


class ShyError(Exception):
    def __str__(self):
        raise RuntimeError


def setup():
    raise ShyError
