"""JUnit XML, which every CI service reads: one test case for each check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stabcheck.renderers.text import clean
from stabcheck.renderers.wording import Wording, slashed

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.report import CheckResult, Report


def render(report: Report, *, catalog: Sequence[Check] = (), base: str | None = None) -> str:
    """A suite named after the target. Warnings and what is suppressed are in the case's output, as JUnit knows only
    failed and not failed."""
    from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

    wording = Wording(report, catalog, base)
    suite = TestSuite(clean(f"stabcheck {report.target}"))
    for key, value in report.environment.items():
        suite.add_property(str(key), clean(str(value)))
    for check in report.checks:
        case = TestCase(check.id, classname=clean(f"stabcheck.{report.target}"), time=round(check.duration_s, 3))
        said = clean(_said(check, wording), lines=True)
        if check.error is not None:
            error = Error(clean(check.error.message), type_=check.error.blame)
            error.text = clean(check.error.traceback or check.error.message, lines=True)
            case.result = [error]
        elif check.status == "skip":
            case.result = [Skipped(clean(check.skip_reason or check.summary))]
        elif check.status == "fail":
            codes = sorted({f.code for f in check.findings if f.severity == "fail" and f.counts})
            failure = Failure(clean(check.summary), type_=",".join(codes))
            failure.text = said
            case.result = [failure]
        if said and check.status != "fail":
            case.system_out = said
        suite.add_testcase(case)
    document = JUnitXml()
    document.add_testsuite(suite)
    text: bytes = document.tostring()
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text.decode("utf-8")}\n'


def _said(check: CheckResult, wording: Wording) -> str:
    lines = []
    for said in wording.said():
        if said.check.id != check.id:
            continue
        lines += [f"{said.finding.severity.upper()} {said.title}"]
        place = wording.place(said)
        if said.finding.source and place:
            lines.append(f"Where {slashed(place.file)}:{place.line}")
        lines += [said.finding.message, f"Fix: {said.finding.fix}", ""]
    for finding in check.findings:
        if finding.suppressed is not None:
            lines += [f"SUPPRESSED {wording.of(check, finding).title}: {finding.suppressed}"]
    return "\n".join(lines).strip()
