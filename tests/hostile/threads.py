"""Leaves a thread running that is no daemon."""

import threading
import time

from parts import parts


def setup():
    threading.Thread(target=lambda: time.sleep(1000)).start()
    return parts()
