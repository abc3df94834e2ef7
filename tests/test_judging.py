from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import simple_checks

from stabcheck.check import Check, NotChecked, Outcome
from stabcheck.judging import error_of, gathered, judge, only
from stabcheck.userland import UserCodeError


def check(run: Any) -> Check:
    return replace(simple_checks.FINDS, id="made", run=run)


def raising(error: BaseException) -> Check:
    def run(subject: object) -> Outcome:
        raise error

    return check(run)


def test_findings_are_ordered_by_severity_place_and_code() -> None:
    result = judge(simple_checks.FINDS, None, contained=True).result

    assert [(f.severity, f.location) for f in result.findings] == [
        ("fail", "layers.2"), ("warn", "layers.9"), ("warn", "layers.10"),
    ]  # fmt: skip
    assert result.status == "fail"


def test_evidence_is_plain() -> None:
    result = judge(simple_checks.FINDS, None, contained=True).result

    assert result.findings[2].evidence == {"value": "NaN"}
    assert result.findings[0].source is not None


def test_skip_has_its_reason() -> None:
    result = judge(simple_checks.SKIPS, None, contained=True).result

    assert (result.status, result.skip_reason) == ("skip", "nothing to do")


def test_exception_of_our_own_is_ours_with_a_traceback() -> None:
    def run(subject: object) -> Outcome:
        return Outcome("", measurements={1: lambda: 1}, not_checked=(None,))  # type: ignore[arg-type, dict-item]

    error = judge(check(run), None, contained=True).result.error

    assert error is not None
    assert (error.blame, error.stage) == ("stabcheck", "made")
    assert "judging.py" in error.traceback


def test_users_error_keeps_blame_and_stage() -> None:
    raised = UserCodeError("val_loader", "KeyError: 3", file="/home/me/train.py", line=7, trace="Traceback ...")

    error = judge(raising(raised), None, contained=True).result.error

    assert error is not None
    assert error.model_dump() == {
        "blame": "target", "stage": "val_loader", "message": "KeyError: 3 (/home/me/train.py:7)", "traceback": "Traceback ...",
    }  # fmt: skip


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(0), RecursionError(), MemoryError()])
def test_nothing_comes_out_of_a_contained_process(raised: BaseException) -> None:
    assert judge(raising(raised), None, contained=True).result.status == "error"


def test_interrupt_comes_out_of_the_users_own_process() -> None:
    with pytest.raises(KeyboardInterrupt):
        judge(raising(KeyboardInterrupt()), None, contained=False)
    assert judge(raising(SystemExit(0)), None, contained=False).result.status == "error"


def test_undeclared_rule_and_wrong_return_value_are_our_faults() -> None:
    undeclared = judge(check(lambda _: Outcome("", (simple_checks.ODD.at(step=1),))), None, contained=True)
    foreign = judge(replace(simple_checks.LOOKS, run=simple_checks.FINDS.run), None, contained=True).result.error
    nothing = judge(check(lambda _: None), None, contained=True).result.error

    assert undeclared.result.status == "fail"
    assert foreign is not None
    assert foreign.message.startswith("ValueError: looks reports SC9001, SC9002, which is none of its rules")
    assert nothing is not None
    assert nothing.message.startswith("TypeError: made returned a NoneType, not an Outcome")


def test_findings_that_are_not_reported_do_not_count() -> None:
    result = judge(simple_checks.FINDS, None, contained=True).result

    warned = only(result, lambda code: code != "SC9001")
    clean = only(result, lambda code: False)

    assert (warned.status, len(warned.findings), warned.summary) == ("warn", 2, "found (not reported: SC9001)")
    assert (clean.status, clean.summary) == ("pass", "found (not reported: SC9001, SC9002)")
    assert only(result, lambda code: True) is result


def test_strange_text_can_be_published() -> None:
    result = judge(check(lambda _: Outcome("caf\u00e9 \udcff\x1b[31m")), None, contained=True).result

    assert result.summary == "caf\u00e9 ?"
    assert error_of(ValueError("\udcff"), "made").message == "ValueError: ?"


def test_what_several_checks_left_out_is_said_once() -> None:
    rest, other = NotChecked("the rest", "too large"), NotChecked("the rest", "too small")

    listed = gathered([("a", rest), ("b", other), ("c", rest), ("a", rest)])

    assert listed == [NotChecked("a, c: the rest", "too large"), NotChecked("b: the rest", "too small")]
