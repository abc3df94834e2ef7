"""SARIF 2.1.0 (OASIS, 2020), which code-scanning services read."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stabcheck.renderers.docs import sentence, summary
from stabcheck.renderers.wording import Said, Wording, slashed
from stabcheck.report import plain

if TYPE_CHECKING:
    from stabcheck.check import Check, Rule
    from stabcheck.report import CheckResult, Report, SourceLine

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"fail": "error", "warn": "warning"}
ROOT = "SRCROOT"


def render(report: Report, *, catalog: Sequence[Check] = (), base: str | None = None) -> str:
    """One run, with the rules that its results are about. A finding without a line of its own is at the entry function, as
    such services drop results that are nowhere; one that follows from another is suppressed, with that as the reason."""
    wording = Wording(report, catalog, base)
    # With their help, all rules of the catalogue take half a megabyte.
    found = {finding.code for check in report.checks for finding in check.findings}
    rules = [(check, rule) for check in catalog for rule in check.rules if rule.code in found]
    places = {rule.code: place for place, (_, rule) in enumerate(rules)}
    results = []
    for said in wording.said():
        results.append(_result(said, wording, places))
        results += [
            _result(one, wording, places, because=f"follows from {said.finding.code}")
            for one in wording.explained(said.finding.code)
        ]
    for check in report.checks:
        for finding in check.findings:
            if finding.suppressed is not None:
                results.append(_result(wording.of(check, finding), wording, places, because=finding.suppressed))
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "stabcheck",
                "version": str(report.environment.get("stabcheck") or "0"),
                "rules": [_rule(check, rule) for check, rule in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report)],
        "results": results,
    }
    if base:
        run["originalUriBaseIds"] = {ROOT: {"uri": pathlib.Path(base).absolute().as_uri() + "/"}}
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rule(check: Check, rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.name.replace("-", " ")},
        "fullDescription": {"text": summary(check)},
        "help": {"text": f"{sentence(rule.fix)} (stabcheck explain {rule.code})", "markdown": check.doc},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"check": check.id},
    }


def _result(said: Said, wording: Wording, places: dict[str, int], because: str | None = None) -> dict[str, Any]:
    finding = said.finding
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{finding.message}\nFix: {finding.fix}"},
        "partialFingerprints": {"rule/location/v1": f"{finding.code}:{finding.location or ''}"},
        "properties": {"check": said.check.id, "evidence": finding.evidence},
    }
    if finding.code in places:
        result["ruleIndex"] = places[finding.code]
    location: dict[str, Any] = {}
    if place := wording.place(said):
        location["physicalLocation"] = _physical(place)
    if finding.location:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.location, "kind": "member"}]
    if location:
        result["locations"] = [location]
    if because:
        result["suppressions"] = [{"kind": "external", "justification": because}]
    return result


def _physical(place: SourceLine) -> dict[str, Any]:
    path = pathlib.Path(place.file)
    if path.is_absolute():
        where: dict[str, Any] = {"uri": path.as_uri()}
    else:
        where = {"uri": quote(slashed(place.file)), "uriBaseId": ROOT}
    return {"artifactLocation": where, "region": {"startLine": max(place.line, 1)}}


def _invocation(report: Report) -> dict[str, Any]:
    broken: list[CheckResult] = [check for check in report.checks if check.error is not None]
    notes = [
        {"level": "error", "message": {"text": f"{check.id}: {check.error.message}"}} for check in broken if check.error
    ]
    return {"executionSuccessful": not broken, "toolExecutionNotifications": notes}
