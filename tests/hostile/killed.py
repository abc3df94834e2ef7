"""What the kernel does when memory runs out."""

import os
import signal

from parts import parts


def validate():
    os.kill(os.getpid(), signal.SIGKILL)


def setup():
    return parts(validate=validate)
