"""The HTML report in a real browser, where there is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stabcheck.console import to_bytes
from stabcheck.renderers.html import render
from stabcheck.report import Report
from tests.renderers.browsers import BROWSER, DARK, look
from tests.renderers.report_samples import CATALOG, broken, failing, hostile
from tests.renderers.test_html import everywhere, measured

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")

WIDTHS = [390, 1400]
SCRIPT = "</script><script>window.attacked=1</script><img src=x onerror='parent.attacked=window.attacked=1'>"
REPORTS = {
    "failing": (failing, 3), "broken": (broken, 0), "hostile": (hostile, 1),
    "measured": (measured, 8), "attacked": (lambda: everywhere(SCRIPT), 5),
}  # fmt: skip


def page(report: Report) -> str:
    return to_bytes(render(report, catalog=CATALOG, base="/home/ada/project")).decode()


def brightness(color: str) -> float:
    """Relative luminance by WCAG 2.2, 0 to 1."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(found: dict[str, Any], what: str) -> float:
    low, high = sorted((brightness(found[what]), brightness(found["paper"])))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", REPORTS)
def test_every_picture_is_drawn_and_nothing_is_wider_than_the_screen(name: str, tmp_path: Path) -> None:
    make, pictures = REPORTS[name]

    for found in look(page(make()), tmp_path, WIDTHS):
        assert found["drawn"] == pictures
        assert found["traces"] >= pictures
        assert found["wide"] <= 0
        assert not found["overlong"]
        assert found["requests"] == []
        assert not found["attacked"]
        assert brightness(found["paper"]) > 0.9
        assert contrast(found, "ink") >= 7
        if name == "measured":
            assert found["images"] == [3, 3]


def test_text_stands_out_in_the_dark(tmp_path: Path) -> None:
    (found,) = look(page(measured()), tmp_path, [390], DARK)

    assert brightness(found["paper"]) < 0.1
    assert contrast(found, "ink") >= 7
    assert contrast(found, "axis") >= 7
