"""Documentation of the checks, made from their docstrings: `stabcheck list`, `stabcheck explain`, the README table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabcheck.renderers.markup import text
from stabcheck.renderers.text import STATUS_STYLES, Paper, short

if TYPE_CHECKING:
    from stabcheck.check import Check, Rule

SECTIONS = ("What it looks at", "Why it matters", "What to do")
BEGIN = "<!-- checks: written by `REWRITE_GOLDEN=1 python -m pytest tests/test_catalog.py` -->"
END = "<!-- /checks -->"
_FIELD = re.compile(r"\{(\w*)[^{}]*\}")


def summary(check: Check) -> str:
    """The first paragraph of a check's docstring, on one line."""
    return " ".join(check.doc.partition("\n\n")[0].split())


def section(check: Check, title: str) -> str:
    """The Markdown below `## title` in a check's docstring; "" if there is none."""
    found = re.search(rf"^## {re.escape(title)}[ \t]*\n(.*?)(?=^## |\Z)", check.doc, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def sentence(template: str) -> str:
    """A message or fix template as documentation: `{count:,}` reads `<count>`."""
    if _FIELD.fullmatch(template):
        return "(depends on what is found)"
    return _FIELD.sub(lambda found: f"<{found[1].replace('_', ' ') or 'value'}>", template)


def render_list(catalog: Sequence[Check], *, width: int = 80, color: bool = False, ascii: bool = False) -> str:
    """One entry for each check: its id and what can be wrong."""
    from rich.table import Table

    paper = Paper(width, color, ascii)
    table = Table.grid()
    table.add_column(overflow="fold", width=min(max((len(check.id) for check in catalog), default=0), 24) + 2)
    table.add_column(overflow="fold")
    for check in catalog:
        table.add_row(paper.words((check.id, "bold")), paper.words(summary(check)))
    paper.write(table)
    paper.write()
    paper.write(paper.words(("stabcheck explain CHECK says more about one of them.", "dim")))
    return paper.text()


def to_json(catalog: Sequence[Check]) -> str:
    """The catalogue as a JSON list, without a final newline."""
    return json.dumps([_record(check) for check in catalog], indent=2, ensure_ascii=False)


def render_check(
    check: Check,
    rules: Sequence[Rule],
    thresholds: Mapping[str, tuple[float, str]] | None = None,
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
) -> str:
    """A check's docstring as a page, then the given rules with severity, message and fix, and its thresholds, each with
    value and meaning."""
    from rich.markdown import Markdown

    paper = Paper(width, color, ascii)
    paper.write(paper.words((check.id, "bold"), f"  {check.title}"))
    paper.write()
    page = paper.clean(check.doc, lines=True)
    paper.write(Markdown(page, hyperlinks=False))
    for rule in rules:
        paper.write()
        paper.write(
            paper.words((f"{rule.code} {rule.name}", "bold"), "  ", (rule.severity, STATUS_STYLES[rule.severity]))
        )
        paper.hang("Says", paper.words(sentence(rule.message)), style="dim")
        paper.hang("Fix", paper.words(sentence(rule.fix)), style="dim")
    if check.beyond:
        paper.heading("Beyond it")
        for item in check.beyond:
            paper.hang("-", paper.words(f"{item.what}: {item.why}"), room=1)
    if thresholds:
        paper.heading(f"Numbers that [tool.stabcheck.thresholds.{check.id}] can change")
        for name, (value, meaning) in thresholds.items():
            paper.write(paper.words((f"{name} = {short(value)}", "bold")), indent=2)
            paper.write(paper.words(meaning), indent=6)
    # rich draws bullets of its own, whatever the characters allowed.
    text = paper.text()
    return text.replace("•", "*").encode("ascii", "replace").decode() if ascii else text


def page(check: Check) -> str:
    """The check's docstring as a Markdown page, with its rules."""
    lines = [
        f"# {check.id}",
        "",
        check.doc,
        "",
        "## Rules",
        "",
        "| code | | | what it says |",
        "| --- | --- | --- | --- |",
    ]
    for rule in check.rules:
        said = text(sentence(rule.message))
        lines.append(f"| {rule.code} | {rule.name} | {rule.severity} | {said} |")
    return "\n".join(lines) + "\n"


def table(catalog: Sequence[Check]) -> str:
    """The README table, in Markdown."""
    lines = ["| check | codes | what can be wrong |", "| --- | --- | --- |"]
    for check in catalog:
        codes = f"{check.rules[0].code[:4]}.." if check.rules else ""
        lines.append(f"| {check.id} | {codes} | {summary(check).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def with_table(text: str, catalog: Sequence[Check]) -> str:
    """`text` with the table between its markers replaced.

    Raises:
        ValueError: the markers are not there, once each and in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the markers {BEGIN} and {END} must be there once each")
    return f"{before}{BEGIN}\n{table(catalog)}\n{END}{after}"


def _record(check: Check) -> dict[str, Any]:
    return {
        "id": check.id,
        "title": check.title,
        "kind": check.kind,
        "summary": summary(check),
        "rules": [
            {"code": rule.code, "name": rule.name, "severity": rule.severity, "message": rule.message, "fix": rule.fix}
            for rule in check.rules
        ],
    }
