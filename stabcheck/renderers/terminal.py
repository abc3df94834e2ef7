"""The report for a person. The verdict comes first and last; between them what was checked, what was found, with
causes before what follows from them, the pictures, and what was not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stabcheck.check import INSTALLED
from stabcheck.renderers.docs import section
from stabcheck.renderers.findings import (
    Cause,
    blame,
    causes,
    headline,
    known,
    place,
    style_of,
    suppressed,
    unchecked,
    word_of,
    write_cause,
)
from stabcheck.renderers.pictures import write_pictures
from stabcheck.renderers.text import STATUS_STYLES, STATUS_WORDS, Paper, clean, clip, seconds
from stabcheck.suppressions import WORSE

if TYPE_CHECKING:
    from stabcheck.check import Check, Rule
    from stabcheck.report import CheckError, CheckResult, Report

SIDE_BY_SIDE = 56
"""From this width on, the summary stands beside the check's name; below, beneath it."""

STATUS = 7
"""Columns of a status and the gap after it."""

WHOSE = {"target": "your set-up, ", "stabcheck": "a fault of stabcheck, "}
"""Whom the verdict blames for what could not run."""

TRACEBACK_LINES = 12
"""Of the traceback of the user's own code; -v and JSON have it all."""


def render(
    report: Report,
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    catalog: Sequence[Check] = (),
    base: str | None = None,
    verbose: bool = False,
) -> str:
    """The report as lines of at most `width` cells (never below `text.MIN_WIDTH`).

    The catalogue gives the names of rules and why a check matters; paths inside the directory `base` are shown
    relative to it. `verbose` shows every finding, all evidence, whole tracebacks and every picture.
    """
    paper = Paper(width, color, ascii)
    rules = {rule.code: rule for check in catalog for rule in check.rules}
    reasons = whys(catalog)
    found = causes(report)
    verdict = paper.words((verdict_of(report, found, rules, base), STATUS_STYLES[report.status]))

    _write_header(paper, report, verbose=verbose)
    paper.write(verdict)
    paper.write()
    _write_table(paper, report)
    for error, ids in errors_of(report).items():
        _write_error(paper, error, ids, verbose=verbose)
    for cause in found:
        write_cause(paper, cause, rules, reasons, base=base, verbose=verbose)
    write_pictures(paper, report, verbose=verbose)
    _write_suppressed(paper, report)
    _write_not_checked(paper, report, catalog)
    paper.write()
    paper.write(verdict)
    paper.write(paper.words((_next(report, found), "dim")))
    return paper.text()


def findings(report: Report, catalog: Sequence[Check], *, width: int = 80, base: str | None = None) -> str:
    """The blocks of the findings alone, without colour."""
    paper = Paper(width, color=False, ascii=False)
    rules = {rule.code: rule for check in catalog for rule in check.rules}
    for cause in causes(report):
        write_cause(paper, cause, rules, {}, base=base, verbose=False)
    return paper.text()


def problems(report: Report, catalog: Sequence[Check], *, width: int = 80, base: str | None = None) -> str:
    """What could not run and what was found, each with what to do, without colour."""
    paper = Paper(width, color=False, ascii=False)
    rules = {rule.code: rule for check in catalog for rule in check.rules}
    for error, ids in errors_of(report).items():
        _write_error(paper, error, ids, verbose=False)
    for cause in causes(report):
        write_cause(paper, cause, rules, whys(catalog), base=base, verbose=False)
    return paper.text().lstrip("\n")


def verdict_line(report: Report, *, ascii: bool = False, catalog: Sequence[Check] = (), base: str | None = None) -> str:
    """The verdict alone, on one line."""
    rules = {rule.code: rule for check in catalog for rule in check.rules}
    return clean(verdict_of(report, causes(report), rules, base), ascii=ascii)


def verdict_of(report: Report, found: Sequence[Cause], rules: Mapping[str, Rule], base: str | None = None) -> str:
    """The verdict in one sentence: of the first cause what is wrong in a clause, by which rule and where."""
    counts = {status: sum(check.status == status for check in report.checks) for status in STATUS_WORDS}
    ran = counts["pass"] + counts["warn"] + counts["fail"]
    if counts["error"]:
        broken = [check for check in report.checks if check.status == "error"]
        also = f", and {_count(counts['fail'], 'check')} failed" if counts["fail"] else ""
        error = broken[0].error
        whose = "" if error is None or error.stage == INSTALLED else WHOSE[error.blame]
        said = f"{error.stage}: {clip(error.message)}" if error else clip(broken[0].summary)
        return f"No verdict: {_count(len(broken), 'check')} could not run{also} — {whose}{said}"
    if not ran:
        return "No verdict: nothing was checked."
    skipped = _skipped(report)
    accepted = sum(len(known(check)) for check in report.checks)
    also = f"{_count(accepted, 'known finding')} suppressed" if accepted else ""
    if report.status == "pass" and accepted:
        worse = sum(WORSE in (one.suppressed or "") for check in report.checks for one in known(check))
        also += f", {worse} of them worse than known" if worse else ""
        passed = sum(check.status == "pass" and not known(check) for check in report.checks)
        return f"No new fault: {_count(passed, 'check')} passed, {also}{skipped}."
    if report.status == "pass":
        return f"No fault found: {_count(counts['pass'], 'check')} passed{skipped}."
    bad = [check for check in report.checks if check.status == report.status]
    cause = next((cause for cause in found if cause.check in bad), None)
    named = _named(cause, rules, base) if cause else bad[0].summary
    others = [check.id for check in bad if check is not (cause.check if cause else bad[0])]
    named += f"; also {', '.join(others)}" if others else ""
    named += f"; {also}" if also else ""
    if report.status == "fail":
        return f"Do not start this run: {_count(counts['fail'], 'check')} failed — {named}"
    new = "new " if accepted else ""
    return f"Look before you start: nothing {new}failed, {_count(counts['warn'], 'check')} warned — {named}"


def _skipped(report: Report) -> str:
    from stabcheck.report import NEEDS_SETUP, out_of_time

    count = sum(check.status == "skip" for check in report.checks)
    late = sum(map(out_of_time, report.checks))
    absent = sum(check.skip_reason == NEEDS_SETUP for check in report.checks)
    whys = [f"{late} of them for lack of time"] if late else []
    whys += [f"{absent} of them for want of the set-up"] if absent else []
    return f" ({', '.join([f'{count} skipped', *whys])})" if count else ""


def _named(cause: Cause, rules: Mapping[str, Rule], base: str | None) -> str:
    finding = cause.findings[0]
    name = f" {rules[cause.code].name}" if cause.code in rules else ""
    where = f" at {place(finding.source, base)}" if finding.source else ""
    said = finding.message if len(cause.findings) == 1 else cause.check.summary
    return f"{headline(said)} ({cause.code}{name}{where})"


def whys(catalog: Sequence[Check]) -> dict[str, str]:
    """Code of a rule -> why it matters: its own reason, or else that of its check."""
    return {rule.code: rule.why or why(check) for check in catalog for rule in check.rules}


def why(check: Check) -> str:
    """The first paragraph of "Why it matters", without Markdown's backticks and line breaks."""
    return " ".join(section(check, "Why it matters").partition("\n\n")[0].replace("`", "").split())


def _write_header(paper: Paper, report: Report, *, verbose: bool) -> None:
    environment: Mapping[str, Any] = report.environment
    version = environment.get("stabcheck")
    name = f"stabcheck {version}" if version else "stabcheck"
    paper.write(paper.words((name, "bold"), " · ", report.target))
    facts = [
        f"{key} {environment[key]}" for key in ("python", "torch", "device", "seed") if environment.get(key) is not None
    ]
    if verbose and environment.get("configuration"):
        facts.append(f"configuration {environment['configuration']}")
    paper.write(paper.words((" · ".join(facts), "dim")))
    paper.write()


def _write_table(paper: Paper, report: Report) -> None:
    from rich.table import Table

    if not report.checks:
        return
    # No padding, but columns that are wider: rich has changed what it pads.
    table = Table.grid()
    table.add_column(no_wrap=True, width=STATUS)
    rows = list(_alike(report.checks))
    times = ["" if check.status == "skip" else seconds(check.duration_s) for check, _ in rows]
    if paper.width < SIDE_BY_SIDE:
        table.add_column(overflow="fold")
    else:
        table.add_column(overflow="fold", width=min(max(len(check.id) for check in report.checks), 24) + 2)
        table.add_column(overflow="fold", ratio=1)
        table.add_column(no_wrap=True, width=max(map(len, times)) + 2, justify="right", style="dim")
    for (check, alike), took in zip(rows, times, strict=True):
        status = paper.words((word_of(check), style_of(check)))
        name = paper.words((check.id, "bold" if check.status in {"fail", "warn", "error"} else ""))
        also = f" (the same for {', '.join(alike)})" if alike else ""
        summary = paper.words((summary_of(check) + also, "dim" if check.status == "skip" else ""))
        if paper.width < SIDE_BY_SIDE:
            table.add_row(status, name.append("\n").append(summary))
        else:
            table.add_row(status, name, summary, took)
    paper.write(table)


def _alike(checks: Sequence[CheckResult]) -> Iterator[tuple[CheckResult, list[str]]]:
    """Each check with those after it that did not run for the very same reason, and are not shown again."""
    groups: dict[object, list[CheckResult]] = {}
    for check in checks:
        reason = (check.status, summary_of(check)) if check.status in {"skip", "error"} else check.id
        groups.setdefault(reason, []).append(check)
    for first, *others in groups.values():
        yield first, [check.id for check in others]


def summary_of(check: CheckResult) -> str:
    """What a table has room for: the findings themselves stand below it."""
    if check.error is not None:
        return f"could not run: {clip(check.error.message)}"
    return check.skip_reason or (headline(check.summary) if check.status in {"warn", "fail"} else check.summary)


def errors_of(report: Report) -> dict[CheckError, list[str]]:
    """Every error once, with the checks that it kept from running. The way to the user's line may be another each time:
    the shortest traceback is shown."""
    groups: dict[tuple[str, str, str], list[tuple[CheckError, str]]] = {}
    for check in report.checks:
        if (error := check.error) is not None:
            groups.setdefault((error.blame, error.stage, error.message), []).append((error, check.id))
    return {
        min((error for error, _ in group), key=lambda error: (not error.traceback, len(error.traceback))): [
            id for _, id in group
        ]
        for group in groups.values()
    }


def _write_error(paper: Paper, error: CheckError, ids: Sequence[str], *, verbose: bool) -> None:
    paper.write()
    paper.write(paper.words((f"ERROR  {', '.join(ids)} could not run", STATUS_STYLES["error"])))
    paper.hang("What", paper.words(f"{error.stage}: {error.message}"), style="dim")
    paper.hang("Who", paper.words(blame(error)), style="dim")
    _write_trace(paper, error.traceback, whole=verbose)


def _write_trace(paper: Paper, trace: str, *, whole: bool) -> None:
    lines = trace.rstrip().splitlines()
    hidden = 0 if whole else max(len(lines) - TRACEBACK_LINES, 0)
    if hidden:
        paper.write(paper.words((f"({hidden} earlier lines of the traceback: -v)", "dim")), indent=4)
    for line in lines[hidden:]:
        paper.write(paper.words((line.expandtabs(4), "dim")), indent=4, width=paper.width)


def _write_not_checked(paper: Paper, report: Report, catalog: Sequence[Check]) -> None:
    rows = unchecked(report, catalog)
    if not rows:
        return
    paper.heading("Not checked")
    for what, reason in rows:
        paper.hang("-", paper.words(f"{what}: ", (reason, "dim")), room=1)


def _write_suppressed(paper: Paper, report: Report) -> None:
    rows = suppressed(report)
    if not rows:
        return
    paper.heading("Suppressed")
    for what, why in rows:
        paper.hang("-", paper.words(f"{what}: ", (why, "dim")), room=1)


def _next(report: Report, found: Sequence[Cause]) -> str:
    if any(check.status == "error" for check in report.checks):
        return "Mend what could not run and run again; -v shows the whole traceback."
    if found:
        return f"More on this: stabcheck explain {found[0].code}. Then mend it and run again."
    if not any(check.status == "pass" for check in report.checks):
        return "stabcheck list shows what can be checked."
    return "stabcheck explain CHECK says what a check looked at."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
