from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabcheck.comparison import compare, roots
from stabcheck.report import CheckError, FindingResult, Report
from tests.renderers import report_samples
from tests.renderers.report_samples import report_of, result


def finding(code: str = "SC0901", location: str | None = "relu", severity: str = "fail", **rest: Any) -> FindingResult:
    fields = {"code": code, "location": location, "severity": severity, "message": "it is so", "fix": "mend it", **rest}
    return FindingResult.model_validate(fields)


def of(*findings: FindingResult, id: str = "dying-relu", **rest: Any) -> Report:
    return report_of(result(id, "said", *findings, **rest))


ERROR = CheckError(blame="target", stage="train_step", message="KeyError: 'x'")


def test_the_same_report_is_the_same() -> None:
    comparison = compare(report_samples.failing(), report_samples.failing())

    assert comparison.same
    assert not comparison.worse


def test_a_finding_that_appears_is_worse_and_one_that_goes_is_not() -> None:
    there, back = compare(of(), of(finding())), compare(of(finding()), of())

    assert [(c.finding.location, c.before, c.after) for c in there.appeared] == [("relu", None, "fails")]
    assert [(c.finding.location, c.before, c.after) for c in back.gone] == [("relu", "fails", None)]
    assert (there.worse, back.worse) == (True, False)
    assert not there.gone
    assert not back.appeared


def test_a_finding_elsewhere_is_another_one() -> None:
    comparison = compare(of(finding(location="a")), of(finding(location="b")))

    assert [c.finding.location for c in comparison.appeared] == ["b"]
    assert [c.finding.location for c in comparison.gone] == ["a"]


def test_words_and_evidence_do_not_make_another_finding() -> None:
    assert compare(of(finding(message="61 units")), of(finding(message="60 units", evidence={"units": 60}))).same


def test_of_equal_findings_only_the_additional_one_is_new() -> None:
    comparison = compare(of(finding()), of(finding(), finding(message="a second")))

    assert [c.finding.message for c in comparison.appeared] == ["a second"]


def test_a_warning_that_became_a_failure_is_worse() -> None:
    up, down = (
        compare(of(finding(severity=a)), of(finding(severity=b))) for a, b in (("warn", "fail"), ("fail", "warn"))
    )

    assert [(c.before, c.after) for c in up.appeared] == [("warns", "fails")]
    assert [(c.before, c.after) for c in down.gone] == [("fails", "warns")]
    assert (up.worse, down.worse) == (True, False)


def test_a_new_warning_is_worse() -> None:
    assert compare(of(), of(finding(severity="warn"))).worse


def test_a_consequence_alone_is_not_worse_and_counts_when_its_cause_is_gone() -> None:
    follows = finding(follows_from="SC0701")
    appeared = compare(of(), of(follows, skip_reason="cannot be judged"))
    left_alone = compare(of(follows, skip_reason="cannot be judged"), of(finding()))

    assert [(c.before, c.after) for c in appeared.appeared] == [(None, "follows")]
    assert not appeared.worse
    assert [(c.before, c.after) for c in left_alone.appeared] == [("follows", "fails")]
    assert left_alone.worse


def test_what_is_suppressed_stands_apart() -> None:
    accepted = finding(suppressed="known for years")
    new, lifted, silenced = (
        compare(of(), of(accepted)),
        compare(of(accepted), of(finding())),
        compare(of(finding()), of(accepted)),
    )

    assert [(c.before, c.after) for c in new.suppressed] == [(None, "suppressed")]
    assert not new.appeared
    assert not new.worse
    assert [(c.before, c.after) for c in lifted.appeared] == [("suppressed", "fails")]
    assert lifted.worse
    assert [(c.before, c.after) for c in silenced.suppressed] == [("fails", "suppressed")]
    assert not silenced.worse
    assert not silenced.gone


@pytest.mark.parametrize("now", [{"skip_reason": "no time left"}, {"error": ERROR}, None])
def test_what_was_not_judged_has_not_gone(now: dict[str, Any] | None) -> None:
    comparison = compare(of(finding()), of(**now) if now else report_of())

    assert [(c.finding.code, c.judged) for c in comparison.gone] == [("SC0901", False)]
    assert [s.lost for s in comparison.statuses] == [True]


def test_what_was_not_judged_before_may_not_be_new() -> None:
    comparison = compare(of(skip_reason="no val_loader"), of(finding()))

    assert [c.judged for c in comparison.appeared] == [False]
    assert comparison.worse


def test_a_check_that_newly_cannot_run_is_worse_and_one_that_is_skipped_is_not() -> None:
    broken, skipped, mended = (
        compare(of(), of(error=ERROR)),
        compare(of(), of(skip_reason="why")),
        compare(of(error=ERROR), of()),
    )

    assert [(s.check, s.before, s.after, s.why) for s in broken.statuses] == [
        ("dying-relu", "pass", "error", "KeyError: 'x'")
    ]
    assert (broken.worse, skipped.worse, mended.worse) == (True, False, False)
    assert [s.lost for s in skipped.statuses] == [True]


def test_a_check_that_only_one_report_has() -> None:
    comparison = compare(of(), report_of(result("eval-mode", "fine")))

    assert [(s.check, s.before, s.after) for s in comparison.statuses] == [
        ("eval-mode", None, "pass"),
        ("dying-relu", "pass", None),
    ]
    assert not comparison.worse


def test_other_conditions_and_targets_are_said() -> None:
    new = of().model_copy(
        update={"target": "b.py:setup", "environment": {"seed": 1, "torch": "2.13.0", "device": "cpu"}}
    )
    comparison = compare(of(), new)

    assert comparison.other_target
    assert ("seed", "0", "1") in comparison.conditions
    assert ("python", "3.11.9", "unknown") in comparison.conditions
    assert "torch" not in [what for what, _, _ in comparison.conditions]


def test_consequences_are_listed_under_their_causes() -> None:
    cause, other = finding("SC0701", "a"), finding("SC0301", None)
    direct, indirect, orphan = (
        finding("SC0901", follows_from="SC0701"),
        finding("SC0101", None, follows_from="SC0901"),
        finding("SC0201", None, follows_from="SC9901"),
    )
    changes = compare(of(), of(cause, other, direct, indirect, orphan)).appeared
    grouped = [(c.finding.code if c else None, [b.finding.code for b in below]) for c, below in roots(changes)]

    assert grouped == [("SC0701", ["SC0901", "SC0101"]), ("SC0301", []), (None, ["SC0201"])]


def test_causes_in_a_circle_lose_nothing() -> None:
    changes = compare(
        of(), of(finding("SC0901", follows_from="SC0701"), finding("SC0701", follows_from="SC0901"))
    ).appeared

    assert [(cause, len(below)) for cause, below in roots(changes)] == [(None, 2)]


def test_json_has_everything_and_is_json() -> None:
    new = of(finding(evidence={"share": float("nan")}))
    document = json.loads(json.dumps(compare(of(), new).to_json(), allow_nan=False))

    assert document["worse"] is True
    assert document["appeared"][0]["finding"]["evidence"] == {"share": "NaN"}
    assert document["appeared"][0]["after"] == "fails"
    assert document["statuses"] == [
        {"check": "dying-relu", "before": "pass", "after": "fail", "why": "said", "explained": False, "worse": True}
    ]


_finding = st.builds(
    finding,
    code=st.sampled_from(["SC0101", "SC0701", "SC0901"]),
    location=st.sampled_from([None, "a", "b"]),
    severity=st.sampled_from(["warn", "fail"]),
    follows_from=st.sampled_from([None, None, "SC0701", "SC0901"]),
    suppressed=st.sampled_from([None, None, "known"]),
)
_check = st.builds(
    lambda id, findings, skip: result(id, "said", *findings, skip_reason=skip),
    st.sampled_from(["dying-relu", "eval-mode"]),
    st.lists(_finding, max_size=5),
    st.sampled_from([None, None, "no time left"]),
)
_report = st.lists(_check, max_size=2, unique_by=lambda check: check.id).map(lambda checks: report_of(*checks))


@given(_report, _report)
@settings(max_examples=200, deadline=None)
def test_every_difference_is_told_once_and_back_again(old: Report, new: Report) -> None:
    there, back = compare(old, new), compare(new, old)
    all_there, all_back = (len(c.appeared) + len(c.gone) + len(c.suppressed) for c in (there, back))

    assert all_there == all_back
    assert compare(old, old).same
    assert {s.check for s in there.statuses} == {s.check for s in back.statuses}
    # What gets no worse has no finding that counts more often than before.
    if not there.worse:
        assert _counts(new) <= _counts(old)


def _counts(report: Report) -> int:
    return sum(finding.counts for check in report.checks for finding in check.findings)


def with_rate(rate: float, **measured: Any) -> Report:
    checks = [
        result("learning-rate", "said", measurements={"planned_peak_rate": rate}),
        result(
            "optimizer-config",
            "said",
            measurements={"optimizers": [{"kind": "AdamW", "groups": [{"lr": rate, **measured}]}]},
        ),
    ]
    return report_of(*checks)


def test_what_the_user_changed_is_named() -> None:
    comparison = compare(with_rate(0.003, weight_decay=0.01), with_rate(3.0, weight_decay=0.1))

    assert comparison.setup == (
        ("learning rate (peak)", "0.003", "3"),
        ("optimizer", "AdamW (weight decay 0.01)", "AdamW (weight decay 0.1)"),
    )
    assert (comparison.same, comparison.worse) == (False, False)
    assert comparison.to_json()["setup"] == [
        {"what": what, "old": old, "new": new} for what, old, new in comparison.setup
    ]


def test_a_fact_that_only_one_report_has_is_no_change() -> None:
    assert compare(of(), with_rate(0.1)).setup == ()
