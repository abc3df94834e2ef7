"""The report as one HTML file that needs no network: to read on any screen, to print, and with pictures to look into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stabcheck.renderers.html.figures import figures_of
from stabcheck.renderers.html.page import document
from stabcheck.renderers.wording import Wording

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.report import Report


def render(report: Report, *, catalog: Sequence[Check] = (), base: str | None = None) -> str:
    """Verdict, checklist, findings, pictures, and what was not checked.

    Raises:
        ModuleNotFoundError: plotly is not installed, and there are pictures to draw.
    """
    return document(Wording(report, catalog, base), catalog, figures_of(report))
