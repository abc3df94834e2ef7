"""A download that never ends."""

import time


def setup():
    while True:
        time.sleep(0.1)
