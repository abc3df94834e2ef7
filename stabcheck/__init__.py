"""Pre-flight checks for PyTorch training.

Importing this package never imports torch: a project can return a `TrainingSetup` from its entry
point, and the command line can print its help, without paying for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.setup import TrainingSetup
from stabcheck.version import __version__

if TYPE_CHECKING:
    from stabcheck.engine import Options, run
    from stabcheck.report import Report

__all__ = ["Options", "Report", "TrainingSetup", "__version__", "run"]


def __getattr__(name: str) -> object:
    """Import the engine and the report only when they are asked for."""
    if name in {"run", "Options"}:
        from stabcheck import engine

        return getattr(engine, name)
    if name == "Report":
        from stabcheck.report import Report

        return Report
    raise AttributeError(f"module 'stabcheck' has no attribute {name!r}")
