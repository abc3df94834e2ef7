"""A signal handler of its own, which raises at any moment."""

import signal
import time

from parts import parts


def late(number, frame):
    raise TimeoutError("the data server does not answer")


def setup():
    signal.signal(signal.SIGALRM, late)
    return parts(validate=lambda: (signal.setitimer(signal.ITIMER_REAL, 0.05), time.sleep(10)))
