"""The user's words in Markdown, so that nothing in them is markup."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def text(value: str) -> str:
    """`value` as plain text: nothing in it is markup, and it stays on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))


def code(value: str) -> str:
    """`value` in code style, whatever backticks are in it."""
    longest = max(map(len, re.findall(r"`+", value)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{' '.join(value.split())}{pad}{fence}"
