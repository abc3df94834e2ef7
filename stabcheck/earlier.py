"""Reports of earlier runs, read from their files: to compare with, and as baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stabcheck.userland import UsageError

if TYPE_CHECKING:
    from stabcheck.report import Report
    from stabcheck.suppressions import Suppression


def known(baseline: Path | None) -> tuple[Suppression, ...]:
    """What the baseline has found already.

    Raises:
        UsageError: it cannot be read, or is no report.
    """
    if baseline is None:
        return ()
    from stabcheck.suppressions import from_report

    return from_report(read_report(baseline, "--baseline"), baseline.name)


def read_report(path: Path, what: str) -> Report:
    """The report in a file that `what` (an option) names.

    Raises:
        UsageError: it cannot be read, or is no report.
    """
    from stabcheck.report import from_json

    try:
        return from_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from error
