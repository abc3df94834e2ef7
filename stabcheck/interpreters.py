"""New Python processes that run our own code, and no other's."""

from __future__ import annotations

import sys
from pathlib import Path

_BOOT = """\
import importlib.util, sys
spec = importlib.util.spec_from_file_location("stabcheck", {package!r})
sys.modules["stabcheck"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["stabcheck"])
from {module} import {function}
{function}(*sys.argv[1:])
"""


def command(module: str, function: str, *arguments: str) -> list[str]:
    """The command line of an interpreter that calls a function with these arguments.

    It runs this very copy of stabcheck, whatever else is on the path. The current directory and the script's are kept
    off the path (-P): they may hold a random.py.
    """
    package = Path(__file__).resolve().parent / "__init__.py"
    code = _BOOT.format(package=str(package), module=module, function=function)
    return [sys.executable, "-P", "-u", "-c", code, *arguments]
