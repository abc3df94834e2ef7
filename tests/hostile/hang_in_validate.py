"""A validation that never ends."""

import time

from parts import parts


def validate():
    while True:
        time.sleep(0.1)


def setup():
    return parts(validate=validate)
