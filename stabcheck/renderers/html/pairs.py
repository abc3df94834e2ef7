"""Pairs of samples from both sides of the split that are equal or nearly so, side by side."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stabcheck.renderers.html.markup import Html, el
from stabcheck.renderers.text import as_records, numbers, short

if TYPE_CHECKING:
    from stabcheck.check import Rule
    from stabcheck.report import Report

MOST_PIXELS = 1 << 16
"""Of one image: measurements have a thousand, and a report from elsewhere must not fill the memory."""


def pairs(report: Report, rules: Mapping[str, Rule]) -> Html | None:
    """The pairs that clean-split measured; None if there are none."""
    measured = next((check.measurements for check in report.checks if check.id == "clean-split"), {})
    shown = [_pair(one, rules) for one in as_records(measured.get("pairs"))]
    if not shown:
        return None
    return el("section", el("h2", "Samples that training and validation share"), el("div", *shown, class_="pairs"))


def _pair(pair: Mapping[str, Any], rules: Mapping[str, Rule]) -> Html:
    code = str(pair.get("code", ""))
    caption = f"{code} {rules[code].name}" if code in rules else code
    sides = [_sample(name, pair.get(key)) for key, name in (("train", "training"), ("val", "validation"))]
    return el("figure", el("div", *sides, class_="sides"), el("figcaption", caption), class_="pair")


def _sample(side: str, sample: Any) -> Html:
    found = sample if isinstance(sample, Mapping) else {}
    name = f"{side} [{found.get('index', '?')}]"
    return el("div", _looks(found.get("looks"), name), el("p", name, class_="aside"))


def _looks(looks: Any, name: str) -> Html | None:
    if not isinstance(looks, Mapping):
        return None
    if isinstance(looks.get("text"), str):
        return el("blockquote", looks["text"])
    if "numbers" in looks:
        return el("p", el("code", ", ".join(map(short, numbers(looks["numbers"]))) + ", …"))
    source = png(looks["image"]) if isinstance(looks.get("image"), Mapping) else None
    return el("img", src=source, alt=f"sample {name}", width=128) if source else None


def png(image: Mapping[str, Any]) -> str | None:
    """The bytes of an image as a PNG in a data URI; None if they are no image."""
    try:
        width, height, channels = (int(image[key]) for key in ("width", "height", "channels"))
        pixels = base64.b64decode(image["pixels"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    if min(width, height) < 1 or width * height > MOST_PIXELS or channels not in (1, 3):
        return None
    stride = width * channels
    if len(pixels) != stride * height:
        return None
    lines = b"".join(b"\0" + pixels[row * stride : (row + 1) * stride] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()
