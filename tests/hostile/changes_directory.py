"""Works in a directory of its own."""

import os
from pathlib import Path

from parts import parts

Path("data").mkdir(exist_ok=True)


def setup():
    os.chdir("data")
    return parts()
