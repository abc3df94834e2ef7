"""Has no use for standard output."""

import os
import sys

from parts import parts

sys.stdout.close()
os.close(1)


def setup():
    return parts()
