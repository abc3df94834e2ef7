"""The document: the verdict first, then what there is to read, then what there is to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from stabcheck.renderers.findings import suppressed
from stabcheck.renderers.html.charts import Figure
from stabcheck.renderers.html.library import packed
from stabcheck.renderers.html.markup import Html, el, join, table
from stabcheck.renderers.html.pairs import pairs
from stabcheck.renderers.html.sections import checklist, errors, findings, listed
from stabcheck.renderers.text import STATUS_WORDS, clean

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.renderers.wording import Wording
    from stabcheck.report import Report

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
"""The page loads nothing from anywhere, whatever is in it."""

FACTS = ("stabcheck", "python", "torch", "device", "seed")


def document(wording: Wording, catalog: Sequence[Check], figures: Sequence[Figure]) -> str:
    """The whole file."""
    report = wording.report
    word = STATUS_WORDS[report.status].upper()
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{word} · {report.target} · stabcheck"),
        el("style", _data("style.css")),
    )
    main = el(
        "main",
        _header(report, wording.verdict, word),
        checklist(report),
        errors(report),
        findings(wording, catalog),
        _gallery(figures),
        pairs(report, wording.rules),
        listed("Suppressed", suppressed(report)),
        listed("Not checked", wording.unchecked),
    )
    scripts = join(packed(), el("script", _data("script.js"))) if figures else None
    html = el("html", head, el("body", main, scripts), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


def _data(name: str) -> Html:
    return Html("\n" + files(__package__).joinpath(name).read_text("utf-8"))


def _header(report: Report, verdict: str, word: str) -> Html:
    facts = [f"{key} {report.environment[key]}" for key in FACTS if report.environment.get(key) is not None]
    return el(
        "header",
        el("p", "stabcheck · ", el("code", report.target), class_="target"),
        el("h1", el("span", word, class_=f"status {report.status}"), " ", verdict),
        el("p", " · ".join(facts), class_="aside"),
        class_=f"verdict {report.status}",
    )


def _gallery(figures: Sequence[Figure]) -> Html | None:
    if not figures:
        return None
    return el("section", el("h2", "Pictures"), el("div", *map(_drawn, figures), class_="gallery"), id="pictures")


def _drawn(figure: Figure) -> Html:
    """The picture, what it shows in words, and its numbers."""
    return el(
        "figure",
        el("h3", figure.title),
        el(
            "div",
            el("p", "The picture needs JavaScript; its numbers are below.", class_="aside"),
            class_="plot",
            role="img",
            aria_label=f"{figure.title}. {figure.caption}",
        ),
        el("figcaption", figure.caption),
        el("details", el("summary", "Numbers"), el("div", table(figure.header, figure.rows), class_="numbers")),
        el("script", _json({"data": figure.traces, "layout": figure.layout}), type="application/json"),
        class_="drawn",
    )


def _json(value: Any) -> Html:
    """JSON that cannot end the element it stands in."""
    dumped = json.dumps(value, allow_nan=False, separators=(",", ":"), default=clean)
    return Html(dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
