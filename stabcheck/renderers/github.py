"""Annotations for GitHub Actions: workflow commands, which its log reader shows beside the lines of a pull request.

The syntax is that of https://docs.github.com/actions/reference/workflow-commands-for-github-actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stabcheck.renderers.findings import relative
from stabcheck.renderers.terminal import errors_of
from stabcheck.renderers.wording import Wording, slashed

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.report import Report

COMMANDS = {"fail": "error", "warn": "warning"}


def render(report: Report, *, catalog: Sequence[Check] = (), base: str | None = None) -> str:
    """One line for each finding that counts and for each reason why checks could not run; empty if there is none."""
    wording = Wording(report, catalog, base)
    lines = []
    for said in wording.said():
        place = wording.place(said)
        where = {"file": slashed(place.file), "line": str(place.line)} if place else {}
        lines.append(
            command(
                COMMANDS[said.finding.severity],
                {**where, "title": said.title},
                f"{said.finding.message}\nFix: {said.finding.fix}",
            )
        )
    entry = (
        {"file": slashed(relative(wording.entry.file, base)), "line": str(wording.entry.line)} if wording.entry else {}
    )
    for error, ids in errors_of(report).items():
        title = f"{ids[0]}{f' and {len(ids) - 1} more checks' if ids[1:] else ''} could not run"
        lines.append(command("error", {**entry, "title": title}, f"{error.stage}: {error.message}"))
    return "".join(f"{line}\n" for line in lines)


def command(name: str, properties: Mapping[str, str], message: str) -> str:
    """One workflow command, with what would end it early percent-encoded."""
    inside = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{name} {inside}::{_escaped(message)}"


def _escaped(value: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        value = value.replace(character, f"%{ord(character):02X}")
    return value
