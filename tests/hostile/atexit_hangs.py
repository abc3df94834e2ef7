"""A farewell that never ends."""

import atexit
import time

from parts import parts

atexit.register(lambda: time.sleep(1000))


def setup():
    return parts()
