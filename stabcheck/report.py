"""The Report: what is published. Statuses are derived here, from findings, and nowhere else.

NaN and infinities are written as the strings "NaN", "Infinity" and "-Infinity": they are evidence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["pass", "warn", "fail", "skip", "error"]
STATUSES: tuple[Status, ...] = ("pass", "warn", "fail", "skip", "error")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class SourceLine(_Model):
    """A line of the user's own code."""

    file: str
    line: int


class FindingResult(_Model):
    """A rule that fired."""

    code: str = Field(pattern=r"^SC\d{4}$")
    severity: Literal["warn", "fail"]
    message: str
    location: str | None = None
    source: SourceLine | None = None
    fix: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    follows_from: str | None = None
    """Code of the finding that explains this one; such a finding does not count."""


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

    schema_version: Literal[1] = 1
    status: Literal["pass", "warn", "fail", "error"]
    target: str
    environment: dict[str, Any]
    counts: dict[Status, int]
    checks: tuple[CheckResult, ...]
    not_checked: tuple[NotCheckedResult, ...] = ()

    def to_json(self) -> str:
        """The published JSON document, without a final newline."""
        return json.dumps(plain(self.model_dump()), indent=2, ensure_ascii=False, allow_nan=False)


def status_of(
    findings: Sequence[FindingResult], *, error: CheckError | None = None, skip_reason: str | None = None
) -> Status:
    """The status of one check. A finding that follows from another check's does not count."""
    if error is not None:
        return "error"
    if skip_reason is not None:
        return "skip"
    severities = {finding.severity for finding in findings if finding.follows_from is None}
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


def exit_code(report: Report, *, strict: bool) -> int:
    """0 no check failed, 1 a check failed (`strict`: or warned), 2 the verdict is incomplete."""
    if report.status == "error":
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
