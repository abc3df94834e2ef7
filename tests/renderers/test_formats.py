"""Each written format, read by something that we did not write."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from markdown_it import MarkdownIt
from sarif.loader import load_sarif_file

from stabcheck.console import to_bytes
from stabcheck.events import CheckFinished, Finished, Loaded, Progress
from stabcheck.renderers import github, json_lines, junit, markdown, markup, sarif
from stabcheck.renderers.formats import EVENTS, FORMATS, render
from stabcheck.report import CheckError, CheckResult, FindingResult, Report, SourceLine
from tests.renderers.report_samples import CATALOG, broken, failing, hostile, passing, report_of, result

REPORTS = {"passing": passing(), "failing": failing(), "broken": broken(), "hostile": hostile()}
BASE = "/home/ada/project"
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())


def finding(message: str = "m", **rest: object) -> FindingResult:
    return FindingResult(**{"code": "SC0701", "severity": "fail", "message": message, "fix": "f", **rest})  # type: ignore[arg-type]


@every_report
def test_every_format_says_something_of_every_report(report: Report) -> None:
    for name in FORMATS:
        if name not in {EVENTS, "github"}:
            assert render(name, report, catalog=CATALOG, base=BASE).endswith("\n")


# --- JUnit


@every_report
def test_junit_has_a_case_for_each_check_with_its_status(report: Report) -> None:
    (suite,) = JUnitXml.fromstring(junit.render(report, catalog=CATALOG, base=BASE).encode())

    kinds = {"fail": Failure, "error": Error, "skip": Skipped}
    cases = list(suite)
    assert [case.name for case in cases] == [check.id for check in report.checks]
    for case, check in zip(cases, report.checks, strict=True):
        assert [type(r) for r in case.result] == ([kinds[check.status]] if check.status in kinds else [])
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (
        len(cases), report.counts["fail"], report.counts["error"], report.counts["skip"],
    )  # fmt: skip


def test_junit_failure_tells_where_and_how_to_mend() -> None:
    (suite,) = JUnitXml.fromstring(junit.render(failing(), catalog=CATALOG, base=BASE).encode())

    cases = {case.name: case for case in suite}
    (failure,) = cases["vanishing-gradients"].result
    assert failure.type == "SC0701"
    assert "Where models/encoder.py:42" in failure.text
    assert "Fix: Add residual connections" in failure.text
    assert "WARN SC0301" in cases["clean-split"].system_out
    assert cases["clean-split"].result == []


def test_junit_keeps_what_is_suppressed_in_sight() -> None:
    known = result("dying-relu", "1 dead", finding(code="SC0901", location="a.b", suppressed="known since May"))

    (suite,) = JUnitXml.fromstring(junit.render(report_of(known), catalog=CATALOG, base=BASE).encode())

    (case,) = suite
    assert case.result == []
    assert case.system_out.startswith("SUPPRESSED SC0901")
    assert case.system_out.endswith("at a.b: known since May")


# --- SARIF


@every_report
def test_sarif_has_a_result_for_each_finding(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "report.sarif"
    file.write_bytes(to_bytes(sarif.render(report, catalog=CATALOG, base=BASE)))

    loaded = load_sarif_file(str(file))

    assert loaded.get_distinct_tool_names() == ["stabcheck"]
    expected = sorted(f.code for check in report.checks for f in check.findings)
    assert sorted(r["ruleId"] for r in loaded.get_results()) == expected
    (run,) = loaded.runs
    rules = run.run_data["tool"]["driver"]["rules"]
    known = {rule.code for check in CATALOG for rule in check.rules}
    assert {rule["id"] for rule in rules} == set(expected) & known
    assert all(rule["help"]["text"] != rule["help"]["markdown"] for rule in rules)
    for found in loaded.get_results():
        if "ruleIndex" in found:
            assert rules[found["ruleIndex"]]["id"] == found["ruleId"]


def test_sarif_results_are_at_the_users_line_and_consequences_suppressed(tmp_path: Path) -> None:
    (run,) = json.loads(sarif.render(failing(), catalog=CATALOG, base=BASE))["runs"]
    results = {r["ruleId"]: r for r in run["results"]}

    (location,) = results["SC0701"]["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "models/encoder.py", "uriBaseId": "SRCROOT"}, "region": {"startLine": 42},
    }  # fmt: skip
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "encoder.layers.0"
    assert results["SC0701"]["level"] == "error"
    assert "suppressions" not in results["SC0701"]
    assert results["SC0901"]["suppressions"] == [{"kind": "external", "justification": "follows from SC0701"}]
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == f"file://{BASE}/"


def test_a_finding_without_a_line_is_at_the_entry_function() -> None:
    report = report_of(result("vanishing-gradients", "s", finding()))
    report = report.model_copy(update={"environment": {"entry": f"{BASE}/my train.py:7"}})

    (run,) = json.loads(sarif.render(report, catalog=CATALOG, base=BASE))["runs"]

    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "my%20train.py"
    assert place["region"] == {"startLine": 7}
    assert github.render(report, base=BASE).startswith("::error file=my train.py,line=7,title=SC0701::m")


def test_a_run_that_broke_is_no_successful_invocation() -> None:
    def successful(report: Report) -> bool:
        return json.loads(sarif.render(report))["runs"][0]["invocations"][0]["executionSuccessful"]

    assert successful(passing())
    assert not successful(broken())


# --- GitHub


def test_annotations_survive_line_breaks_and_separators() -> None:
    odd = finding("50% at\nlayer: a,b", location="a,b:c", source=SourceLine(file=f"{BASE}/a,b.py", line=3))

    (line,) = github.render(report_of(result("vanishing-gradients", "s", odd)), catalog=CATALOG, base=BASE).splitlines()

    found = re.fullmatch(r"::error file=(.*),line=(\d+),title=([^,:]*)::(.*)", line)
    assert found
    file, number, title, message = (re.sub("%(..)", lambda m: chr(int(m[1], 16)), part) for part in found.groups())
    assert (file, number, title) == ("a,b.py", "3", "SC0701 vanishing-gradients at a,b:c")
    assert message == "50% at\nlayer: a,b\nFix: f"


def test_annotations_leave_out_what_follows_from_something_else() -> None:
    lines = github.render(failing(), catalog=CATALOG, base=BASE).splitlines()

    assert [line.split(" ")[0] for line in lines].count("::warning") == 1
    assert not any("SC0901" in line for line in lines)


def test_a_check_that_could_not_run_is_an_annotation_too() -> None:
    assert any("could not run" in line for line in github.render(broken()).splitlines())


def test_what_keeps_several_checks_from_running_is_annotated_once() -> None:
    error = CheckError(blame="target", stage="load", message="no file")
    checks = [result(id, "could not run", error=error) for id in ("dying-relu", "eval-mode", "clean-split")]

    (line,) = github.render(report_of(*checks)).splitlines()

    assert line == "::error title=dying-relu and 2 more checks could not run::load: no file"


# --- Markdown


@every_report
def test_markdown_is_a_heading_a_table_and_no_markup_of_the_users(report: Report) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown.render(report, catalog=CATALOG, base=BASE))

    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == 1 + len(report.checks)
    html = [token.content.strip() for token in tokens if token.type.startswith("html")]
    assert {h for block in html for h in block.splitlines()} <= {
        "<details><summary>Not checked</summary>", "</details>", "",
    }  # fmt: skip


def test_markdown_says_what_a_person_needs() -> None:
    text = MarkdownIt("gfm-like", {"linkify": False}).render(markdown.render(failing(), catalog=CATALOG, base=BASE))

    assert "Do not start this run: 2 checks failed" in text
    assert "<code>models/encoder.py:42</code>" in text
    assert "This explains, so they need no work of their own" in text
    assert "Add residual connections" in text


@pytest.mark.parametrize("value", ["plain", "a`b", "``", "`x`"])
def test_code_style_survives_backticks(value: str) -> None:
    assert f"<code>{value}</code>" in MarkdownIt().render(markup.code(value))


# --- events


def test_events_are_one_json_document_a_line() -> None:
    report = passing()
    events = [
        Progress("loading"), Loaded(0.5, {"parameters": 3}), CheckFinished(report.checks[0]), Finished(report),
    ]  # fmt: skip

    lines = [json_lines.line(event) for event in events]

    assert all(line.count("\n") == 1 for line in lines)
    found = [json.loads(line) for line in lines]
    assert [one["event"] for one in found] == ["progress", "loaded", "check", "finished"]
    assert CheckResult.model_validate(found[2]["result"]) == report.checks[0]
    assert Report.model_validate(found[3]["report"]) == report
