"""From what a check returned or raised to its published result."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stabcheck.check import Check, Finding, NotChecked, Outcome, Severity, Skip, Source
from stabcheck.recording import nearest
from stabcheck.report import CheckError, CheckResult, FindingResult, SourceLine, plain, status_of
from stabcheck.userland import UserCodeError, blamed, clean, is_request_to_stop, shortened, shown

_SEVERITIES = ("fail", "warn")


@dataclass(frozen=True)
class Judged:
    """The result of one check, and what it left unchecked."""

    result: CheckResult
    not_checked: tuple[NotChecked, ...] = ()


def judge(check: Check, subject: Any, *, contained: bool) -> Judged:
    """Run a check on a Recording or a Bench. Nothing that it raises comes out, but for a Ctrl-C and the end of a
    debugger, which are the user's where the process is not a `contained` one of our own."""
    started = time.perf_counter()
    try:
        judged = of_outcome(check, check.run(subject), subject)
    except Skip as skip:
        judged = Judged(skipped(check, skip.reason))
    except BaseException as error:
        if not contained and is_request_to_stop(error):
            raise
        judged = Judged(failed(check, error_of(error, check.id)))
    seconds = round(time.perf_counter() - started, 3)
    return Judged(judged.result.model_copy(update={"duration_s": seconds}), judged.not_checked)


def of_outcome(check: Check, outcome: Outcome, subject: Any = None) -> Judged:
    """The result for what a check returned of `subject`, the Recording or the Bench."""
    if not isinstance(outcome, Outcome):
        raise TypeError(f"{check.id} returned a {type(outcome).__name__}, not an Outcome")
    unknown = {finding.code for finding in outcome.findings} - {rule.code for rule in check.rules}
    if unknown:
        raise ValueError(f"{check.id} reports {', '.join(sorted(unknown))}, which is none of its rules")
    placed = (_placed(check, finding, subject) for finding in outcome.findings)
    findings = tuple(_published(finding) for finding in sorted(placed, key=_order))
    result = CheckResult(
        id=check.id,
        status=status_of(findings),
        summary=clean(outcome.summary),
        findings=findings,
        measurements=plain(outcome.measurements),
    )
    return Judged(result, tuple(NotChecked(clean(item.what), clean(item.why)) for item in outcome.not_checked))


def skipped(check: Check, reason: str) -> CheckResult:
    """The result of a check that does not apply, or was not reached."""
    return CheckResult(
        id=check.id, status=status_of((), skip_reason=reason), summary="skipped", skip_reason=clean(reason)
    )


def failed(check: Check, error: CheckError) -> CheckResult:
    """The result of a check that could not run."""
    return CheckResult(id=check.id, status=status_of((), error=error), summary="could not run", error=error)


def error_of(error: BaseException, stage: str) -> CheckError:
    """What an exception says to the user: blame, cause, and their own file and line where it has one. What came out of
    one of the doors to their code brings its own stage."""
    known = error if isinstance(error, UserCodeError) else blamed(stage, error, default="stabcheck")
    place = f" ({shown(known.file)}:{known.line})" if known.file else ""
    return CheckError(
        blame=known.blame,
        stage=clean(known.stage),
        message=clean(known.message + place),
        traceback=shortened(clean(known.trace)),
    )


def only(result: CheckResult, reports: Callable[[str], bool]) -> CheckResult:
    """The result without the findings whose codes are not to be reported."""
    kept = tuple(finding for finding in result.findings if reports(finding.code))
    if len(kept) == len(result.findings):
        return result
    status = status_of(kept, error=result.error, skip_reason=result.skip_reason)
    left_out = sorted({finding.code for finding in result.findings} - {finding.code for finding in kept})
    summary = f"{result.summary} (not reported: {', '.join(left_out)})"
    return result.model_copy(update={"findings": kept, "status": status, "summary": summary})


def regraded(result: CheckResult, severities: Mapping[str, Severity]) -> CheckResult:
    """The result with the severities that the user gives these rules."""
    if not any(finding.code in severities for finding in result.findings):
        return result
    findings = tuple(f.model_copy(update={"severity": severities.get(f.code, f.severity)}) for f in result.findings)
    status = status_of(findings, error=result.error, skip_reason=result.skip_reason)
    return result.model_copy(update={"findings": findings, "status": status})


def gathered(left_unchecked: Sequence[tuple[str, NotChecked]]) -> list[NotChecked]:
    """(check id, item) pairs as one list that names the checks, each thing once."""
    checks: dict[NotChecked, list[str]] = {}
    for check, item in left_unchecked:
        names = checks.setdefault(item, [])
        if check not in names:
            names.append(check)
    return [NotChecked(f"{', '.join(names)}: {item.what}", item.why) for item, names in checks.items()]


def _order(finding: Finding) -> tuple[Any, ...]:
    location = finding.location or ""
    natural = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", location) if part]
    return _SEVERITIES.index(finding.severity), natural, location, finding.code


def _placed(check: Check, finding: Finding, subject: Any) -> Finding:
    """The finding with a line of the user's: if it has none, that of the module that it is at, or of what its rule is about,
    at last the entry function."""
    if finding.source is not None:
        return finding
    sources: Mapping[str, Source] = getattr(subject, "sources", {})
    places: Mapping[str, Source] = getattr(subject, "places", {})
    module = nearest(finding.location or "", sources)
    about = next(rule.about for rule in check.rules if rule.code == finding.code) or check.about
    found = [sources[module]] if module else [places[key] for key in (*about, "entry") if key in places]
    return replace(finding, source=found[0] if found else None)


def _published(finding: Finding) -> FindingResult:
    source = SourceLine(file=finding.source[0], line=finding.source[1]) if finding.source else None
    return FindingResult(
        code=finding.code,
        severity=finding.severity,
        message=clean(finding.message),
        location=clean(finding.location) if finding.location is not None else None,
        source=source,
        fix=clean(finding.fix),
        evidence=plain(finding.evidence),
    )
