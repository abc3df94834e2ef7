"""The parts of the page that are read: the checklist, what could not run, the findings, and lists of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stabcheck.renderers.findings import IN_FULL, Cause, blame, is_said, place, word_of
from stabcheck.renderers.html.markup import Html, el, join, text
from stabcheck.renderers.terminal import errors_of, summary_of, whys
from stabcheck.renderers.text import STATUS_WORDS, fact, seconds

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.renderers.wording import Wording
    from stabcheck.report import CheckResult, FindingResult, Report


def badge(status: str, word: str = "") -> Html:
    """The status as word (its own, if none is given) and colour."""
    return el("span", (word or STATUS_WORDS[status]).upper(), class_=f"status {status}")


def checklist(report: Report) -> Html | None:
    """One row for each check."""
    if not report.checks:
        return None
    header = el("tr", *(el("th", name, scope="col") for name in ("Status", "Check", "Result", "Time")))
    rows = [
        el(
            "tr",
            el("td", badge(check.status, word_of(check))),
            el("th", check.id, scope="row"),
            el("td", summary_of(check)),
            el("td", "" if check.status == "skip" else seconds(check.duration_s), class_="time"),
            class_=check.status,
        )
        for check in report.checks
    ]
    return el(
        "section",
        el("h2", "Checklist"),
        el("table", el("thead", header), el("tbody", *rows), class_="checklist"),
        id="checklist",
    )


def errors(report: Report) -> Html | None:
    """Why checks could not run, each reason once."""
    blocks = []
    for error, ids in errors_of(report).items():
        trace = error.traceback.rstrip()
        blocks.append(
            el(
                "article",
                el("h3", badge("error"), " ", error.stage),
                el("p", error.message, class_="message"),
                el("p", f"{blame(error)} It kept from running: {', '.join(ids)}.", class_="aside"),
                el("details", el("summary", "Traceback"), el("pre", text(trace, lines=True))) if trace else None,
                class_="finding error",
            )
        )
    return el("section", el("h2", "Could not run"), *blocks, id="errors") if blocks else None


def findings(wording: Wording, catalog: Sequence[Check]) -> Html | None:
    """Causes, with what follows from each folded beneath it."""
    if not wording.causes:
        return None
    reasons = whys(catalog)
    blocks = [_cause(cause, wording, reasons.get(cause.code, "")) for cause in wording.causes]
    return el("section", el("h2", "Findings"), *blocks, id="findings")


def _cause(cause: Cause, wording: Wording, reason: str) -> Html:
    rule = wording.rules.get(cause.code)
    shown, rest = cause.findings[:IN_FULL], cause.findings[IN_FULL:]
    more = [el("summary", f"{len(rest)} more places"), *(_place(finding, wording) for finding in rest)]
    fixes = list(dict.fromkeys(finding.fix for finding in shown))
    return el(
        "article",
        el("h3", badge(cause.severity), " ", el("span", cause.code, class_="code"), " ", rule.name if rule else ""),
        el("p", "from the check ", el("b", cause.check.id), class_="aside"),
        *(_place(finding, wording) for finding in shown),
        el("details", *more) if rest else None,
        el("h4", "Why it matters") if reason else None,
        el("p", reason) if reason else None,
        el("h4", "What to do"),
        *(el("p", fix, class_="fix") for fix in fixes),
        _followers(cause),
        class_=f"finding {cause.severity}",
    )


def _place(finding: FindingResult, wording: Wording) -> Html:
    where = []
    if finding.location:
        # The path of a module in an nn.Sequential is a mere number.
        whose = " of the model" if finding.location[0].isdigit() else None
        where.append(join(el("code", finding.location), whose))
    if finding.source:
        where.append(el("code", place(finding.source, wording.base)))
    return el(
        "div",
        el("p", finding.message, class_="message"),
        el("p", "Where: ", *(part for one in where for part in (one, " ")), class_="where") if where else None,
        _evidence(finding),
        class_="place",
    )


def _evidence(finding: FindingResult) -> Html | None:
    news = {key: value for key, value in finding.evidence.items() if not is_said(value, finding)}
    if not news:
        return None
    rows = [
        el("div", el("dt", str(key).replace("_", " ")), el("dd", fact(value)), class_="fact")
        for key, value in news.items()
    ]
    return el("dl", *rows, class_="evidence")


def _followers(cause: Cause) -> Html | None:
    if not cause.followers:
        return None
    items = [el("li", *_line(check, finding)) for check, finding in cause.followers]
    count = len(items)
    what = "1 more finding follows" if count == 1 else f"{count} more findings follow"
    said = f"{what} from this and need no work of their own"
    return el("details", el("summary", said), el("ul", *items), class_="followers")


def _line(check: CheckResult, finding: FindingResult) -> tuple[object, ...]:
    where = join(" at ", el("code", finding.location)) if finding.location else None
    return el("b", f"{finding.code} {check.id}"), where, ": ", finding.message


def listed(title: str, rows: Sequence[tuple[str, str]]) -> Html | None:
    """(what, why) as a list."""
    if not rows:
        return None
    items = [el("div", el("dt", what), el("dd", reason)) for what, reason in rows]
    return el("section", el("h2", title), el("dl", *items, class_="rest"))
