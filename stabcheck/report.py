"""The Report: what is published. Statuses are derived here, from findings, and nowhere else.

NaN and infinities are written as the strings "NaN", "Infinity" and "-Infinity": they are evidence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stabcheck.check import Severity

Status = Literal["pass", "warn", "fail", "skip", "error"]
SCHEMA_VERSION: Literal[1] = 1
NEEDS_SETUP = "needs the set-up itself, not only a recording: stabcheck run"
"""Why an experiment is skipped where a recording is judged."""
STATUSES: tuple[Status, ...] = ("pass", "warn", "fail", "skip", "error")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class SourceLine(_Model):
    """A line of the user's own code."""

    file: str
    line: int


class FindingResult(_Model):
    """A rule that fired."""

    code: str = Field(pattern=r"^[A-Z]{2,8}\d{4}$")
    severity: Severity
    message: str
    location: str | None = None
    source: SourceLine | None = None
    fix: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    follows_from: str | None = None
    """Code of the finding that explains this one; such a finding does not count."""
    suppressed: str | None = None
    """Why it was accepted beforehand; such a finding does not count either."""

    @property
    def counts(self) -> bool:
        """Whether it bears on the status of its check."""
        return self.follows_from is None and self.suppressed is None


class CheckError(_Model):
    """Why a check could not run."""

    blame: Literal["target", "stabcheck"]
    stage: str
    message: str
    traceback: str = ""


class NotCheckedResult(_Model):
    """What was not checked, and why."""

    what: str
    why: str


class SuppressionResult(_Model):
    """A suppression, and what became of it."""

    code: str
    location: str | None
    reason: str
    until: str | None
    """ISO date of its last day."""
    state: Literal["used", "unmatched", "expired"]
    findings: int
    """How many it covers."""


class CheckResult(_Model):
    """One check of the catalogue."""

    id: str
    status: Status
    summary: str
    skip_reason: str | None = None
    error: CheckError | None = None
    findings: tuple[FindingResult, ...] = ()
    measurements: dict[str, Any] = Field(default_factory=dict)
    duration_s: float = 0.0


class Report(_Model):
    """The whole run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    status: Literal["pass", "warn", "fail", "error"]
    target: str
    environment: dict[str, Any]
    counts: dict[Status, int]
    checks: tuple[CheckResult, ...]
    not_checked: tuple[NotCheckedResult, ...] = ()
    suppressions: tuple[SuppressionResult, ...] = ()

    def to_json(self) -> str:
        """The published JSON document, without a final newline."""
        return json.dumps(plain(self.model_dump()), indent=2, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Report:
    """The Report that `Report.to_json` wrote.

    Raises:
        ValueError: the text is no report, or one of a schema version that this stabcheck cannot read; the message says which.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version is None:
        raise ValueError("not a report of stabcheck: it has no 'schema_version'")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        advice = "update stabcheck" if newer else "make it anew with this stabcheck"
        raise ValueError(f"a report of schema version {version!r}, and this stabcheck reads {SCHEMA_VERSION}: {advice}")
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"not a report: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def status_of(
    findings: Sequence[FindingResult], *, error: CheckError | None = None, skip_reason: str | None = None
) -> Status:
    """The status of one check. A finding that follows from another check's does not count, nor does a suppressed one."""
    if error is not None:
        return "error"
    if skip_reason is not None:
        return "skip"
    severities = {finding.severity for finding in findings if finding.counts}
    return "fail" if "fail" in severities else "warn" if "warn" in severities else "pass"


def overall(checks: Sequence[CheckResult]) -> Literal["pass", "warn", "fail", "error"]:
    """The status of the whole run: the worst of its checks. A check that could not run outweighs a failed one, and a run
    that judged nothing is an error too."""
    found = {check.status for check in checks}
    if not found & {"pass", "warn", "fail"}:
        return "error"
    for status in ("error", "fail", "warn"):
        if status in found:
            return status
    return "pass"


def out_of_time(check: CheckResult) -> bool:
    """Whether the check was asked for, and skipped for lack of time only."""
    return check.status == "skip" and "--budget" in (check.skip_reason or "")


def exit_code(report: Report, *, strict: bool) -> int:
    """0 no check failed, 1 a check failed (`strict`: or warned), 2 the verdict is incomplete (`strict`: also where a check
    did not fit the budget)."""
    if report.status == "error" or (strict and any(out_of_time(check) for check in report.checks)):
        return 2
    return 1 if report.status == "fail" or (strict and report.status == "warn") else 0


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: tuples become lists, scalars of any library numbers, NaN and inf strings."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
