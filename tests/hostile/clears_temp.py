"""Clears the directory for temporary files, but for those of other runs."""

import os
import shutil
import tempfile
from pathlib import Path

from parts import parts


def setup():
    for path in Path(tempfile.gettempdir()).glob("stabcheck-*"):
        if (path / f"stack-{os.getpid()}.txt").exists():
            shutil.rmtree(path)
    return parts()
