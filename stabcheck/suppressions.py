"""Findings that are known and accepted: each with a reason, for as long as it was meant.

A suppressed finding stays in the report with its reason, and counts for nothing; so does what follows from it.
"""

from __future__ import annotations

import datetime
import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabcheck.check import Severity
    from stabcheck.report import CheckResult, FindingResult, Report, SuppressionResult

KNOWN = "known: in the baseline"
"""How the reason of what a baseline has begins."""
WORSE = "but worse:"


@dataclass(frozen=True)
class Suppression:
    """Accept what the rule `code` (or a check's id, or the beginning of codes) finds."""

    code: str
    reason: str
    location: str | None = None
    """A pattern for the place: a module as the report names it ("encoder.*"), or the end of a file's path ("data/text.py");
    None for everywhere."""
    until: datetime.date | None = None
    """The last day on which it holds."""
    exact: bool = False
    """It is about one finding: `location` is a place and no pattern, None meaning a finding without one."""
    severity: Severity = "fail"
    """The gravest that is accepted."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Of the finding that is known."""
    lasting: bool = True
    """Whether it is worth telling that it matched nothing; not so for what a baseline knows."""

    def concerns(self, check: str, codes: Iterable[str]) -> bool:
        """Whether it is about that check, or one of these rules of it."""
        return self.code == check or any(code.startswith(self.code.upper()) for code in codes)

    def covers(self, check: str, finding: FindingResult) -> bool:
        """Whether the finding of that check is meant."""
        if not self.concerns(check, (finding.code,)) or (self.severity, finding.severity) == ("warn", "fail"):
            return False
        if self.exact:
            return finding.location == self.location
        return self.location is None or _is_at(finding, self.location)

    def why(self, finding: FindingResult) -> str:
        """The reason, with what is worse than it was."""
        from stabcheck.movements import extent, value_of

        worse = [
            f"{key} {value_of(unit, old)} → {value_of(unit, new)}"
            for key, unit, old, new in extent(self.evidence, finding.evidence)
            if new > old
        ]
        return f"{self.reason}, {WORSE} {', '.join(worse)}" if worse else self.reason

    def expired(self, today: datetime.date) -> bool:
        """Whether its last day is over."""
        return self.until is not None and today > self.until


def _is_at(finding: FindingResult, pattern: str) -> bool:
    file = finding.source.file.replace(os.sep, "/") if finding.source else ""
    in_model = fnmatch.fnmatchcase(finding.location or "", pattern)
    return in_model or (bool(file) and fnmatch.fnmatchcase(f"/{file}", f"*/{pattern}"))


def from_report(report: Report, name: str) -> tuple[Suppression, ...]:
    """A suppression for each thing that a report has found: what it knows is not new, nor is what it knew from another
    baseline. What was accepted with a reason of its own stays a matter of that."""
    return tuple(
        Suppression(
            finding.code,
            f"{KNOWN} {name}",
            location=finding.location,
            exact=True,
            severity=finding.severity,
            evidence=finding.evidence,
            lasting=False,
        )
        for check in report.checks
        for finding in check.findings
        if finding.suppressed is None or finding.suppressed.startswith(KNOWN)
    )


def suppress(
    results: Sequence[CheckResult],
    suppressions: Sequence[Suppression],
    today: datetime.date,
    rules: Mapping[str, Sequence[str]],
) -> tuple[list[CheckResult], tuple[SuppressionResult, ...]]:
    """The results with what is covered marked, and what became of each suppression; one whose check gave no verdict cannot
    be said to cover nothing. `rules` are the codes of each check.
    """
    from stabcheck.report import SuppressionResult

    judged = [result.id for result in results if result.status in {"pass", "warn", "fail"}]
    used = dict.fromkeys(range(len(suppressions)), 0)

    def marked(check: str, finding: FindingResult) -> FindingResult:
        for place, suppression in enumerate(suppressions):
            if suppression.exact and used[place]:
                continue
            if suppression.covers(check, finding):
                used[place] += 1
                if not suppression.expired(today):
                    return finding.model_copy(update={"suppressed": suppression.why(finding)})
        return finding

    after = [_with(result, [marked(result.id, finding) for finding in result.findings]) for result in results]
    after = _spread(after)
    told = tuple(
        SuppressionResult(
            code=one.code,
            location=one.location,
            reason=one.reason,
            until=one.until.isoformat() if one.until else None,
            state="expired" if one.expired(today) else "used" if used[place] else "unmatched",
            findings=used[place],
        )
        for place, one in enumerate(suppressions)
        if used[place] or (one.lasting and any(one.concerns(check, rules[check]) for check in judged))
    )
    return after, told


def _spread(results: list[CheckResult]) -> list[CheckResult]:
    """What follows from a rule whose findings are all suppressed is suppressed too."""
    while True:
        findings = [finding for result in results for finding in result.findings]
        accepted = {f.code for f in findings} - {f.code for f in findings if f.suppressed is None}

        def marked(finding: FindingResult, accepted: set[str] = accepted) -> FindingResult:
            if finding.suppressed is not None or finding.follows_from not in accepted:
                return finding
            return finding.model_copy(update={"suppressed": f"follows from {finding.follows_from}"})

        after = [_with(result, [marked(finding) for finding in result.findings]) for result in results]
        if after == results:
            return results
        results = after


def _with(result: CheckResult, findings: Sequence[FindingResult]) -> CheckResult:
    from stabcheck.report import status_of

    if tuple(findings) == result.findings:
        return result
    status = status_of(findings, error=result.error, skip_reason=result.skip_reason)
    known = sum(finding.suppressed is not None for finding in findings)
    # The summary of a failure alone would stand beside a pass.
    is_pass = status == "pass" and result.status != "pass"
    summary = f"{known} known finding{'s' * (known > 1)}, suppressed: {result.summary}" if is_pass else result.summary
    return result.model_copy(update={"findings": tuple(findings), "status": status, "summary": summary})
