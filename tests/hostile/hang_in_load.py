"""Its checkpoint cannot be read back in a new process."""

import time

from parts import parts


def load(path):
    while True:
        time.sleep(0.1)


def setup():
    return parts(save=lambda path: open(path, "w").close(), load=load)
