"""Text that is safe to print: nothing a user's module, path or error message contains can steer the terminal.

Everything shown goes through a `Paper`, which knows the width, whether colour is on and whether only ASCII may be
used. Markup is never parsed, so `[bold]` in a message is just that.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stabcheck.stats import number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

MIN_WIDTH = 24
"""Below this a table has no room for the longest check id; narrower terminals get this width."""

MAX_PROSE = 100
"""Longer lines of prose are hard to read, however wide the terminal."""

STATUS_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim", "error": "bold magenta"}
STATUS_WORDS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "skip": "skip", "error": "ERROR"}

_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_ASCII = str.maketrans(
    {
        "–": "-",
        "—": "--",
        "−": "-",
        "‐": "-",
        "‑": "-",
        "…": "...",
        "·": "|",
        "•": "*",
        "×": "x",
        "→": "->",
        "←": "<-",
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "≠": "!=",
        "±": "+-",
        "²": "^2",
        "³": "^3",
        "√": "sqrt",
        "∞": "inf",
        "σ": "sigma",
        "β": "beta",
        "ε": "eps",
        "µ": "u",
        "°": " degrees",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "\u00a0": " ",
    }
)


def clean(value: object, *, ascii: bool = False, lines: bool = False) -> str:
    """`value` as text without control characters; escapes such as `\\x1b` take their place.

    Line breaks and tabs become single spaces, unless `lines` keeps them.
    """
    text = str(value).expandtabs(4) if lines else _BREAKS.sub(" ", str(value))
    text = "".join(character if _is_plain(character, lines) else _escape(character) for character in text)
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode() if ascii else text


def _is_plain(character: str, lines: bool) -> bool:
    # Cc and Cf steer the terminal (colours, text direction), Cs cannot be encoded, Zl and Zp break lines.
    return (lines and character == "\n") or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _escape(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode() if ord(character) > 126 else f"\\x{ord(character):02x}"
    )


def numbers(values: object) -> list[float]:
    """Every item as a float, NaN where it is no number; empty if `values` is no sequence."""
    if not isinstance(values, (list, tuple)):
        return []
    found = (number(value) for value in values)
    return [math.nan if value is None else value for value in found]


def short(value: float) -> str:
    """Three significant digits, without padding: 0, 12, 0.0123, 3e-4, 1.5e+6."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    if not exponent and abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def seconds(value: float) -> str:
    """A duration for a person: 0.4 s, 41 s, 2.5 min, 1.5 h."""
    if not 0 <= value < 3.6e6:
        return "?"
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value < 9.95:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 119.5 else f"{value / 60:.1f} min"


def fact(value: object) -> str:
    """One value of evidence in a few characters."""
    if isinstance(value, float):
        return short(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} {fact(item)}" for key, item in list(value.items())[:6])
        return inside + (f", … {len(value)} in all" if len(value) > 6 else "")
    if isinstance(value, (list, tuple)):
        inside = ", ".join(f"[{fact(item)}]" if isinstance(item, (list, tuple)) else fact(item) for item in value[:6])
        return inside + (f", … {len(value)} in all" if len(value) > 6 else "")
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return clip(str(value), 80)


def clip(text: str, length: int = 160) -> str:
    """`text`, or its first words with an ellipsis."""
    if len(text) <= length:
        return text
    head = text[: length - 1]
    # A path or a number without a space is cut where it must be.
    words = head if text[length - 1].isspace() else head.rpartition(" ")[0] or head
    return words.rstrip(" ,;:(") + "…"


@dataclass
class Paper:
    """What a report is written on. `width` counts terminal cells; no line of `text()` is wider."""

    width: int
    color: bool = False
    ascii: bool = False

    def __post_init__(self) -> None:
        from rich.console import Console

        self.width = max(self.width, MIN_WIDTH)
        self._out = io.StringIO()
        self.console: Console = Console(
            file=self._out,
            width=self.width,
            height=1000,
            force_terminal=self.color,
            force_interactive=False,
            color_system="standard" if self.color else None,
            no_color=not self.color,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=False,
            # The environment is for the command line to read; here it must not matter.
            _environ={},
        )

    @property
    def prose(self) -> int:
        """Width of running text."""
        return min(self.width, MAX_PROSE)

    def clean(self, value: object, *, lines: bool = False) -> str:
        """`value` as text that may be printed here."""
        return clean(value, ascii=self.ascii, lines=lines)

    def words(self, *parts: tuple[object, str] | object) -> Text:
        """One Text of pieces, each plain or `(piece, style)`."""
        from rich.text import Text

        text = Text(overflow="fold")
        for part in parts:
            piece, style = part if isinstance(part, tuple) else (part, "")
            text.append(self.clean(piece), style or None)
        return text

    def tail(self, value: object, cells: int) -> str:
        """`value` shortened to `cells` from the left, because names of modules differ at their ends."""
        from rich.cells import cell_len

        text, dots = self.clean(value), "..." if self.ascii else "…"
        if cell_len(text) <= cells:
            return text
        while text and cell_len(dots + text) > cells:
            text = text[1:]
        return dots + text

    def write(self, item: RenderableType = "", *, indent: int = 0, width: int | None = None) -> None:
        """Add lines: `item` wrapped to `width` (the prose width if not given), moved right by `indent` cells."""
        from rich.padding import Padding

        shown = Padding(item, (0, 0, 0, indent), expand=False) if indent else item
        self.console.print(shown, width=min(width or self.prose, self.width))

    def hang(self, label: str, item: Text, *, indent: int = 2, style: str = "", room: int = 5) -> None:
        """A paragraph beside a short label, for which `room` cells are kept."""
        from rich.table import Table

        grid = Table.grid()
        grid.add_column(width=room + 1, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(self.words((label, style)), item)
        self.write(grid, indent=indent)

    def heading(self, title: str) -> None:
        """A section begins."""
        self.write()
        self.write(self.words((title, "bold")))

    def text(self) -> str:
        """Everything written, without white space at line ends, and with one final newline."""
        lines = (line.rstrip() for line in self._out.getvalue().split("\n"))
        return "\n".join(lines).rstrip("\n") + "\n"


def as_records(value: object) -> Sequence[Mapping[str, Any]]:
    """The mappings in a list; empty if `value` is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []
