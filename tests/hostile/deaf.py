"""Ignores every signal that it can, and hangs."""

import signal
import time

for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)


def setup():
    while True:
        time.sleep(0.1)
