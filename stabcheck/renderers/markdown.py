"""The report in Markdown, for a pull request or a job's summary page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stabcheck.renderers.findings import suppressed, word_of
from stabcheck.renderers.markup import code, text
from stabcheck.renderers.terminal import summary_of
from stabcheck.renderers.text import seconds
from stabcheck.renderers.wording import Said, Wording, slashed

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.report import Report

MARKS = {"pass": "✅", "warn": "⚠️", "fail": "❌", "skip": "➖", "error": "💥"}
"""One for each status; the word stands beside it, for those who cannot see colours."""


def render(report: Report, *, catalog: Sequence[Check] = (), base: str | None = None) -> str:
    """Verdict, checklist, findings, and what was not checked."""
    wording = Wording(report, catalog, base)
    environment = report.environment
    facts = [
        f"{k} {environment[k]}" for k in ("stabcheck", "torch", "device", "seed") if environment.get(k) is not None
    ]
    lines = [f"## {MARKS[report.status]} stabcheck", "", f"**{text(wording.verdict)}**", ""]
    lines += [f"{code(report.target)} · {text(' · '.join(facts))}", ""]
    lines += ["| | check | result | time |", "| --- | --- | --- | ---: |"]
    for check in report.checks:
        took = "" if check.status == "skip" else seconds(check.duration_s)
        status = f"{MARKS[check.status]} {word_of(check).lower()}"
        lines.append(f"| {status} | {check.id} | {text(summary_of(check))} | {took} |")
    for said in wording.said():
        lines += ["", *_finding(said, wording)]
    if rows := suppressed(report):
        lines += ["", "<details><summary>Suppressed</summary>", ""]
        lines += [f"- {text(what)}: {text(why)}" for what, why in rows]
        lines += ["", "</details>"]
    if wording.unchecked:
        lines += ["", "<details><summary>Not checked</summary>", ""]
        lines += [f"- {text(what)}: {text(why)}" for what, why in wording.unchecked]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _finding(said: Said, wording: Wording) -> list[str]:
    finding = said.finding
    lines = [f"### {MARKS[finding.severity]} {text(said.title)}", "", text(finding.message), ""]
    if finding.source:
        place = wording.place(said)
        lines += [f"**Where** {code(f'{slashed(place.file)}:{place.line}')}", ""] if place else []
    lines += [f"**Fix** {text(finding.fix)}"]
    followers = wording.explained(finding.code)
    if followers:
        lines += ["", "This explains, so they need no work of their own:", ""]
        lines += [f"- {text(one.title)}: {text(one.finding.message)}" for one in followers]
    return lines
