from __future__ import annotations

import random

import pytest

from stabcheck.catalog import CATALOG, RETIRED
from stabcheck.causes import EXPLAINS, RAISED, fold
from stabcheck.report import CheckError, CheckResult, FindingResult, status_of


def result(check: str, *codes: str, severity: str = "fail") -> CheckResult:
    findings = tuple(FindingResult(code=c, severity=severity, message="m", fix="f") for c in codes)
    return CheckResult(id=check, status=status_of(findings), summary="s", findings=findings)


def test_a_consequence_is_marked_and_its_check_becomes_a_skip() -> None:
    dying, vanishing = fold([result("dying-relu", "SC0901"), result("vanishing-gradients", "SC0701")])

    assert dying.status == "fail"
    assert vanishing.status == "skip"
    assert vanishing.findings[0].follows_from == "SC0901"
    assert "SC0901" in (vanishing.skip_reason or "")


def test_activations_that_grow_are_nearer_than_what_they_saturate() -> None:
    exploding, saturation = fold([result("exploding-gradients", "SC0803"), result("activation-saturation", "SC1101")])

    assert (exploding.status, saturation.status) == ("fail", "skip")
    assert saturation.findings[0].follows_from == "SC0803"


def test_a_cause_that_only_warns_explains_nothing() -> None:
    results = fold([result("dying-relu", "SC0901", severity="warn"), result("vanishing-gradients", "SC0701")])

    assert [r.status for r in results] == ["warn", "fail"]


def test_unrelated_findings_stay_apart() -> None:
    results = fold([result("clean-split", "SC0301"), result("vanishing-gradients", "SC0701")])

    assert [r.status for r in results] == ["fail", "fail"]


def test_a_check_with_a_finding_of_its_own_still_fails() -> None:
    (folded,) = [r for r in fold([result("a", "SC0201"), result("b", "SC0801", "SC0301")]) if r.id == "b"]

    assert folded.status == "fail"
    assert [f.follows_from for f in folded.findings] == ["SC0201", None]


@pytest.mark.parametrize("seed", range(3))
def test_folding_keeps_a_failure_whatever_comes_together(seed: int) -> None:
    """No set of codes may explain itself away in a circle."""
    codes = [rule.code for check in CATALOG for rule in check.rules]
    chance = random.Random(seed)
    for _ in range(3000):
        some = chance.sample(codes, chance.choice((2, 2, 3, 5)))
        assert any(r.status == "fail" for r in fold([result(code, code) for code in some])), some


def test_the_table_names_codes_that_exist() -> None:
    known = {rule.code for check in CATALOG for rule in check.rules} | set(RETIRED)
    for line in EXPLAINS:
        assert set(line.causes) <= known
        assert all(any(code.startswith(effect) for code in known) for effect in line.effects)


@pytest.mark.parametrize("key", RAISED)
def test_a_check_that_could_not_run_for_an_explained_exception_is_a_skip(key: str) -> None:
    raised = "IndexError: Target 10 is out of bounds."
    cause = FindingResult(code="SC1604", severity="fail", message="m", fix="f", evidence={key: raised})
    found = CheckResult(id="loss-contract", status="fail", summary="s", findings=(cause,))
    problems = ("IndexError: Target 12 is out of bounds. (train.py:3)", "KeyError: 'labels'")
    broken = [
        CheckResult(
            id="eval-mode",
            status="error",
            summary="s",
            error=CheckError(blame="target", stage="validate", message=text),
        )
        for text in problems
    ]

    assert [r.status for r in fold([found, *broken])] == ["fail", "skip", "error"]
    assert [r.status for r in fold(broken)] == ["error", "error"]


def test_a_type_alone_explains_nothing() -> None:
    cause = FindingResult(code="SC1604", severity="fail", message="m", fix="f", evidence={"raised": "KeyError"})
    found = CheckResult(id="loss-contract", status="fail", summary="s", findings=(cause,))
    error = CheckError(blame="target", stage="validate", message="KeyError: 'labels'")

    broken = CheckResult(id="eval-mode", status="error", summary="s", error=error)
    assert [r.status for r in fold([found, broken])] == ["fail", "error"]
