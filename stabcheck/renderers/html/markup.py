"""Elements of HTML. Whatever is not an `Html` is text: it is escaped, and control characters are made visible."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stabcheck.renderers.text import clean

VOID = {"br", "img", "meta"}


class Html(str):
    """Markup that is finished."""

    __slots__ = ()


def el(name: str, /, *children: object, **attributes: str | int | bool | None) -> Html:
    """An element; of the attributes, `class_` is class, `data_x` is data-x, and None or False is left out."""
    said = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        said += f" {key.rstrip('_').replace('_', '-')}"
        said += "" if value is True else f'="{text(value)}"'
    return Html(f"<{name}{said}>" if name in VOID else f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """One after the other; None and "" are left out."""
    return Html("".join(child if isinstance(child, Html) else text(child) for child in children if child is not None))


def text(value: object, *, lines: bool = False) -> Html:
    """`value` as text; on one line, unless `lines` keeps line breaks."""
    return Html(escape(clean(value, lines=lines)))


def table(header: tuple[str, ...], rows: Sequence[tuple[object, ...]], **attributes: str) -> Html:
    """A table whose first column names the rows."""
    head = el("thead", el("tr", *(el("th", cell, scope="col") for cell in header)))
    body = [el("tr", el("th", first, scope="row"), *(el("td", cell) for cell in rest)) for first, *rest in rows]
    return el("table", head, el("tbody", *body), **attributes)
