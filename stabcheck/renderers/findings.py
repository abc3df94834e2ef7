"""The findings of a report: causes first, what follows from them beneath, one block for each rule.

Ordering is plain data (`causes`), so that it can be tested without a terminal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stabcheck.check import INSTALLED
from stabcheck.renderers.text import STATUS_STYLES, STATUS_WORDS, Paper, fact

if TYPE_CHECKING:
    from rich.text import Text

    from stabcheck.check import Check, Rule
    from stabcheck.report import CheckError, CheckResult, FindingResult, Report, SourceLine

IN_FULL = 3
"""Places shown with message and evidence for one rule; the rest are named, as the advice is the same."""

NAMED = 8
"""Further places that are named before the rest is only counted."""

FACTS = 8
"""Lines of evidence for one finding; JSON has them all."""

SINGLE = 30
"""Longest fact that shares a line with others."""

_FORMS = (".0%", ".1%", ".2f", ".2g", ".3g", ".4g")
"""How sentences write a number."""


@dataclass(frozen=True)
class Cause:
    """All findings of one rule in one check, and the findings that follow from them."""

    check: CheckResult
    findings: tuple[FindingResult, ...]
    followers: tuple[tuple[CheckResult, FindingResult], ...]

    @property
    def code(self) -> str:
        """The rule."""
        return self.findings[0].code

    @property
    def severity(self) -> str:
        """The worst severity of its findings."""
        return "fail" if any(finding.severity == "fail" for finding in self.findings) else "warn"


def causes(report: Report) -> list[Cause]:
    """Every finding that is not suppressed exactly once: failures first, then what explains most, then catalogue order."""
    everything = [
        (check, finding) for check in report.checks for finding in check.findings if finding.suppressed is None
    ]
    above = {finding.code: finding.follows_from for _, finding in everything if finding.follows_from}
    known = {finding.code for _, finding in everything}
    roots: dict[tuple[str, str], tuple[CheckResult, list[FindingResult]]] = {}
    followers: dict[str, list[tuple[CheckResult, FindingResult]]] = {}
    for check, finding in everything:
        root = _root(finding.follows_from, above, known) if finding.follows_from else None
        if root is None or root == finding.code:
            roots.setdefault((check.id, finding.code), (check, []))[1].append(finding)
        else:
            followers.setdefault(root, []).append((check, finding))
    found = []
    for (_, code), (check, findings) in roots.items():
        found.append(Cause(check, tuple(findings), tuple(followers.pop(code, ()))))
    # Codes that only explain each other in a circle, or a cause that itself follows: nothing may be lost.
    for left in followers.values():
        found += [Cause(check, (finding,), ()) for check, finding in left]
    return sorted(found, key=lambda cause: (cause.severity != "fail", -len(cause.followers)))


def known(check: CheckResult) -> list[FindingResult]:
    """Its suppressed findings but for those that follow from others, unless there are only such."""
    found = [finding for finding in check.findings if finding.suppressed is not None]
    return [finding for finding in found if finding.follows_from is None] or found


def word_of(check: CheckResult) -> str:
    """The status in the checklist: a check that passes only because what it found is suppressed is told apart."""
    return "known" if check.status == "pass" and known(check) else STATUS_WORDS[check.status]


def style_of(check: CheckResult) -> str:
    """The colour of the same."""
    return STATUS_STYLES["warn" if word_of(check) == "known" else check.status]


LONGEST = 110
"""Characters of a headline above which asides are left out of it."""

_RAISED = re.compile(r"\w*(Error|Exception|Exit|Interrupt)\b")


def headline(text: str) -> str:
    """The first clause of a sentence, whole; with what was raised, where it says that something was."""
    said = _outside(text)
    ends = [found.start() for found in re.finditer(r"[:;] ", said)]
    ends = [
        end for end in ends
        if not _RAISED.match(said, end + 2) and not re.search(_RAISED.pattern + "$", said[:end])
    ]  # fmt: skip
    clause = text[: ends[0]] if ends else text
    if len(clause) > LONGEST:
        clause = re.sub(r" \([^()]*\)", "", clause)
    if len(clause) > LONGEST:
        said = _outside(clause)
        within, beyond = said.rfind(", ", LONGEST // 3, LONGEST), said.find(", ", LONGEST - 1)
        clause = clause[:within] if within > 0 else clause[:beyond] if beyond > 0 else clause
    return clause.rstrip(" .")


def _outside(text: str) -> str:
    """The text with a blank for each character inside brackets: what ends a clause there ends none."""
    depth, found = 0, []
    for character in text:
        depth = max(depth - (character in ")]}"), 0)
        found.append("_" if depth else character)
        depth += character in "([{"
    return "".join(found)


def unchecked(report: Report, catalog: Sequence[Check]) -> list[tuple[str, str]]:
    """(what, why) of everything in this set-up that was not checked, each once. What a check never looks at is told by
    `stabcheck explain`, and why one was skipped by the table of checks."""
    never = {(item.what, item.why) for check in catalog for item in check.beyond}
    rows = [(one.what, one.why) for one in report.not_checked]
    return list(dict.fromkeys(row for row in rows if (row[0].partition(": ")[2], row[1]) not in never))


def suppressed(report: Report) -> list[tuple[str, str]]:
    """(what, why) of every suppressed finding, and of suppressions that have run out or cover nothing."""
    rows = []
    for check in report.checks:
        for finding in check.findings:
            if finding.suppressed is not None:
                where = f" at {finding.location}" if finding.location else ""
                rows.append((f"{finding.code} {check.id}{where}", finding.suppressed))
    for one in report.suppressions:
        where = f" at {one.location}" if one.location else ""
        if one.state == "expired":
            rows.append((f"{one.code}{where}", f"ran out on {one.until} and no longer holds ({one.reason})"))
        elif one.state == "unmatched":
            rows.append((f"{one.code}{where}", f"covers nothing any more: take it out ({one.reason})"))
    return rows


def blame(error: CheckError) -> str:
    """Whose fault it is that a check could not run, and what to do."""
    if error.stage == INSTALLED:
        return "The package that brings the check, not your set-up: mend or remove it, or --ignore the check."
    if error.blame == "target":
        return "Your own code, or how it is called: this is no fault of stabcheck. Mend it where it is raised and run again."
    return "This is a fault of stabcheck, not of your set-up. Please report it with the output of -v."


def _root(code: str | None, above: Mapping[str, str], known: set[str]) -> str | None:
    seen = set()
    while code in known and code in above and code not in seen:
        seen.add(code)
        code = above[code]
    return code if code in known else None


def place(source: SourceLine, base: str | None) -> str:
    """`file:line`, relative to the directory `base` where the file is inside it."""
    return f"{relative(source.file, base)}:{source.line}"


def relative(file: str, base: str | None) -> str:
    """The path seen from the directory `base` if it is inside it, else as it is."""
    if base and file.startswith(base.rstrip(os.sep) + os.sep):
        return file[len(base.rstrip(os.sep)) + 1 :]
    return file


def write_cause(
    paper: Paper, cause: Cause, rules: Mapping[str, Rule], whys: Mapping[str, str], *, base: str | None, verbose: bool
) -> None:
    """One block: what, where, the evidence, why it matters, what to do, and what else it explains."""
    paper.write()
    style = STATUS_STYLES[cause.severity]
    name = rules[cause.code].name if cause.code in rules else cause.check.id
    paper.write(paper.words((f"{STATUS_WORDS[cause.severity]}  {cause.code} {name}", style)), width=paper.width)
    shown = cause.findings if verbose else cause.findings[:IN_FULL]
    for finding in shown:
        _write_place(paper, finding, base=base, verbose=verbose)
    _write_rest(paper, cause.findings[len(shown) :])
    if why := whys.get(cause.code):
        paper.hang("Why", paper.words(why), style="dim")
    for fix in dict.fromkeys(finding.fix for finding in shown):
        paper.hang("Fix", paper.words(fix), style="bold green")
    if cause.followers:
        paper.hang("Also", paper.words(("this explains, so they need no work of their own:", "dim")), style="dim")
        for check, finding in cause.followers if verbose else cause.followers[:NAMED]:
            where = f" {finding.location}" if finding.location else ""
            paper.write(paper.words((f"{finding.code} {check.id}{where}: ", "dim"), finding.message), indent=8)
        if not verbose and len(cause.followers) > NAMED:
            paper.write(paper.words(f"and {len(cause.followers) - NAMED} more (-v shows them)"), indent=8)


def _write_place(paper: Paper, finding: FindingResult, *, base: str | None, verbose: bool) -> None:
    where = []
    if finding.location:
        # The path of a module in an nn.Sequential is a mere number.
        whose = " of the model" if finding.location[0].isdigit() else ""
        where.append((finding.location + whose, "bold"))
    if finding.source:
        where.append((place(finding.source, base), "cyan"))
    if where:
        paper.hang("Where", _joined(paper, where), style="dim")
    paper.hang("What", paper.words(finding.message), style="dim")
    news = {key: value for key, value in finding.evidence.items() if not is_said(value, finding)}
    lines = _evidence(paper, news)
    for line in lines if verbose else lines[:FACTS]:
        paper.write(line, indent=8)


def is_said(value: object, finding: FindingResult) -> bool:
    """Whether a reader has this fact from the message or the fix already."""
    if isinstance(value, str):
        # A part of a sentence that begins with a space means nothing alone.
        return value in finding.message or value in finding.fix or value.startswith((" ", "(", ","))
    if isinstance(value, (list, tuple)):
        # Numbers in a list mean something by their order.
        return bool(value) and all(isinstance(item, (str, list, tuple)) and is_said(item, finding) for item in value)
    if isinstance(value, (int, float)):
        forms = {fact(value)} if isinstance(value, int) else {fact(value), *(format(value, form) for form in _FORMS)}
        said = "|".join(map(re.escape, forms))
        return re.search(rf"(?<![\w.-])(?:{said})(?![\w%]|\.\d)", finding.message) is not None
    return value is None


def _evidence(paper: Paper, evidence: Mapping[str, Any]) -> list[Text]:
    """Single values side by side on the first line, everything longer on a line of its own."""
    singles, lines = paper.words(), []
    for key, value in evidence.items():
        entry = paper.words((f"{str(key).replace('_', ' ')}: ", "dim"), fact(value))
        if isinstance(value, (Mapping, list, tuple)) or entry.cell_len > SINGLE:
            lines.append(entry)
        else:
            singles.append("   " if singles else "").append(entry)
    return [singles, *lines] if singles else lines


def _write_rest(paper: Paper, rest: Sequence[FindingResult]) -> None:
    if not rest:
        return
    named = [finding.location or finding.message for finding in rest[:NAMED]]
    more = f" and {len(rest) - NAMED} more (-v shows them)" if len(rest) > NAMED else ""
    paper.hang("Also", paper.words(("at ", "dim"), ", ".join(named) + more), style="dim")


def _joined(paper: Paper, parts: Sequence[tuple[str, str]]) -> Text:
    text = paper.words()
    for index, part in enumerate(parts):
        text.append("   " if index else "").append(paper.words(part))
    return text
