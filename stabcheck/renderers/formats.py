"""The table of written formats. A new one is a file with `render(report, catalog=..., base=...)` and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.report import Report

EVENTS = "json-lines"
"""The one format that is written while the run goes on, event by event."""

FORMATS = ("json", EVENTS, "junit", "sarif", "github", "markdown", "html")

DOCUMENTS = ("json", "junit", "sarif", "html")
"""Those that hold one report: two after each other are no document of the format."""

EXTRAS = {"html": "plotly"}
"""Format -> the package that it needs and that comes with the extra of the format's name."""


def missing(name: str) -> str | None:
    """What has to be installed before the format `name` can be written; None if nothing."""
    package = EXTRAS.get(name)
    if package is None or find_spec(package) is not None:
        return None
    return f"needs {package}, which is not installed: pip install 'stabcheck[{name}]'"


def render(name: str, report: Report, *, catalog: Sequence[Check], base: str | None) -> str:
    """The report in the format `name`, one of `FORMATS` but for `EVENTS`."""
    if name == "json":
        return report.to_json() + "\n"
    function: Callable[..., str] = import_module(f"stabcheck.renderers.{name}").render
    return function(report, catalog=catalog, base=base)
