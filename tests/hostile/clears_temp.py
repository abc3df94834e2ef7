"""Clears the directory for temporary files."""

import shutil
import tempfile
from pathlib import Path

from parts import parts


def setup():
    for path in Path(tempfile.gettempdir()).glob("stabcheck-*"):
        shutil.rmtree(path)
    return parts()
