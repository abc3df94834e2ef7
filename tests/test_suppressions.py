from __future__ import annotations

import datetime
import os

import pytest

from stabcheck.causes import fold
from stabcheck.comparison import compare
from stabcheck.renderers import markdown, sarif, terminal
from stabcheck.renderers.findings import suppressed
from stabcheck.report import CheckResult, FindingResult, Report, SourceLine, overall, status_of
from stabcheck.suppressions import Suppression, from_report, suppress

TODAY = datetime.date(2026, 11, 20)


def finding(code: str, location: str | None = None, **rest: object) -> FindingResult:
    fields = {"code": code, "severity": "fail", "message": f"{code} fired", "fix": "f", "location": location, **rest}
    return FindingResult(**fields)  # type: ignore[arg-type]


def check(id: str, *findings: FindingResult) -> CheckResult:
    return CheckResult(id=id, status=status_of(findings), summary="s", findings=findings)


RULES = {
    "dying-relu": ["SC0901", "SC0903"], "clean-split": ["SC0301"], "vanishing-gradients": ["SC0701"],
}  # fmt: skip
DYING = check("dying-relu", finding("SC0903", "encoder.0.act"), finding("SC0903", "head.act"))


@pytest.mark.parametrize(
    ("suppression", "covered"),
    [
        (Suppression("SC0903", "r"), ["encoder.0.act", "head.act"]),
        (Suppression("sc09", "r"), ["encoder.0.act", "head.act"]),
        (Suppression("dying-relu", "r"), ["encoder.0.act", "head.act"]),
        (Suppression("SC0903", "r", location="encoder.*"), ["encoder.0.act"]),
        (Suppression("SC0903", "r", location="encoder"), []),
        (Suppression("SC0901", "r"), []),
        (Suppression("dying", "r"), []),
        (Suppression("SC0903", "r", until=TODAY), ["encoder.0.act", "head.act"]),
        (Suppression("SC0903", "r", until=TODAY - datetime.timedelta(1)), []),
        (Suppression("SC0903", "r", location="head.act", exact=True), ["head.act"]),
        (Suppression("SC0903", "r", exact=True), []),
    ],
)
def test_what_is_covered(suppression: Suppression, covered: list[str]) -> None:
    (after,), told = suppress([DYING], [suppression], TODAY, RULES)

    assert [f.location for f in after.findings if f.suppressed == "r"] == covered
    assert after.status == ("pass" if len(covered) == 2 else "fail")
    assert [one.state for one in told if one.state == "used"] == (["used"] if covered else [])


def test_a_place_may_be_the_end_of_a_files_path() -> None:
    source = SourceLine(file=os.path.join(os.sep, "home", "ada", "data", "text.py"), line=3)
    leak = check("clean-split", finding("SC0301", source=source))

    def covers(location: str) -> bool:
        (after,), _ = suppress([leak], [Suppression("SC0301", "r", location=location)], TODAY, RULES)
        return after.findings[0].suppressed == "r"

    assert covers("text.py")
    assert covers("data/*.py")
    assert not covers("ext.py")
    assert not covers("data")


def test_expired_and_unmatched_are_told_apart() -> None:
    _, told = suppress(
        [DYING, check("clean-split")],
        [Suppression("SC0903", "r", until=datetime.date(2026, 1, 1)), Suppression("SC0301", "r")],
        TODAY,
        RULES,
    )

    assert [(one.code, one.state, one.findings) for one in told] == [
        ("SC0903", "expired", 2),
        ("SC0301", "unmatched", 0),
    ]


def test_nothing_is_said_of_a_check_that_was_not_run() -> None:
    assert suppress([DYING], [Suppression("SC0301", "r"), Suppression("clean-split", "r")], TODAY, RULES)[1] == ()


def test_what_follows_from_a_suppressed_cause_is_suppressed_too() -> None:
    results = fold([check("dying-relu", finding("SC0901", "a")), check("vanishing-gradients", finding("SC0701"))])

    after, _ = suppress(results, [Suppression("SC0901", "known")], TODAY, RULES)

    assert [f.suppressed for one in after for f in one.findings] == ["known", "follows from SC0901"]
    assert "fail" not in {one.status for one in after}


def test_what_follows_from_a_cause_that_is_suppressed_in_one_place_only_is_not() -> None:
    dying = check("dying-relu", finding("SC0901", "a"), finding("SC0901", "b"))
    results = fold([dying, check("vanishing-gradients", finding("SC0701"))])

    after, _ = suppress(results, [Suppression("SC0901", "known", location="a")], TODAY, RULES)

    assert [f.suppressed for one in after for f in one.findings] == ["known", None, None]
    assert after[0].status == "fail"


def report(*checks: CheckResult, told: tuple[object, ...] = ()) -> Report:
    return Report(status=overall(checks), target="t.py:f", environment={}, counts={}, checks=checks, suppressions=told)  # type: ignore[arg-type]


def test_a_baseline_leaves_only_what_is_new() -> None:
    new = check("dying-relu", *DYING.findings, finding("SC0903", "tail.act"))

    (after,), told = suppress([new], from_report(report(DYING), "old.json"), TODAY, RULES)

    assert [f.location for f in after.findings if f.counts] == ["tail.act"]
    assert after.status == "fail"
    (clean,), told = suppress([check("dying-relu")], from_report(report(DYING), "old.json"), TODAY, RULES)
    assert (clean.status, told) == ("pass", ())


def test_a_baseline_that_was_made_with_a_baseline_knows_the_same() -> None:
    made = report(DYING)
    for turn in range(3):
        (after,), _ = suppress([DYING], from_report(made, f"{turn}.json"), TODAY, RULES)
        made = report(after)

        assert [f.suppressed for f in after.findings] == [f"known: in the baseline {turn}.json"] * 2

    (accepted,), _ = suppress([DYING], [Suppression("SC0903", "until we mend it", until=TODAY)], TODAY, RULES)
    assert from_report(report(accepted), "b.json") == ()


def test_of_equal_findings_a_baseline_knows_as_many_as_there_were() -> None:
    one, two = check("clean-split", finding("SC0301")), check("clean-split", finding("SC0301"), finding("SC0301"))

    (after,), _ = suppress([two], from_report(report(one), "b.json"), TODAY, RULES)

    assert [f.counts for f in after.findings] == [False, True]
    assert after.status == "fail"


def test_a_failure_that_was_a_warning_is_new() -> None:
    warned = from_report(report(check("clean-split", finding("SC0301", severity="warn"))), "b.json")

    (fails,), _ = suppress([check("clean-split", finding("SC0301"))], warned, TODAY, RULES)
    (warns,), _ = suppress([check("clean-split", finding("SC0301", severity="warn"))], warned, TODAY, RULES)

    assert (fails.status, warns.status) == ("fail", "pass")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"share": 0.19}, {"share": 1.0}, ", but worse: share 19% → 100%"),
        ({"share": 0.005, "count": 10}, {"share": 0.3, "count": 590}, ", but worse: count 10 → 590"),
        ({"share": 1.0, "count": 400}, {"share": 0.2, "count": 80}, ""),
        ({"share": 0.5, "count": 200, "loss": 1.0}, {"share": 0.7, "count": 280, "loss": 90.0}, ""),
        ({}, {"share": 1.0}, ""),
        ({"share": "NaN"}, {"share": 1.0}, ""),
    ],
)
def test_what_is_known_but_much_worse_says_so(old: dict[str, object], new: dict[str, object], said: str) -> None:
    baseline = report(check("clean-split", finding("SC0302", evidence=old)))
    known = from_report(baseline, "b.json")

    (after,), _ = suppress([check("clean-split", finding("SC0302", evidence=new))], known, TODAY, RULES)

    assert [f.suppressed for f in after.findings] == [f"known: in the baseline b.json{said}"]
    assert ("1 of them worse than known" in terminal.verdict_line(report(after))) is bool(said)
    # It is what `diff` tells of the same two.
    moved = [one.what for one in compare(baseline, report(check("clean-split", finding("SC0302", evidence=new)))).moved]
    assert bool(moved) is (bool(said) or old.get("share") == 1.0)


def test_the_verdict_and_the_checklist_do_not_hide_what_is_suppressed() -> None:
    (after,), _ = suppress([DYING], [Suppression("SC0903", "sparse by design")], TODAY, RULES)
    made = report(after, check("clean-split"))

    assert after.status == "pass"
    assert after.summary == "2 known findings, suppressed: s"
    assert terminal.verdict_line(made) == "No new fault: 1 check passed, 2 known findings suppressed."
    assert "\nknown  dying-relu" in terminal.render(made)
    assert "known | dying-relu" in markdown.render(made)
    warned = report(after, check("clean-split", finding("SC0301", severity="warn")))
    assert terminal.verdict_line(warned) == (
        "Look before you start: nothing new failed, 1 check warned — SC0301 fired (SC0301); 2 known findings suppressed"
    )


def test_suppressed_findings_stay_visible_with_their_reason() -> None:
    known = [Suppression("SC0903", "sparse by design"), Suppression("SC0301", "old")]
    (after, split), told = suppress([DYING, check("clean-split")], known, TODAY, RULES)
    made = report(after, split, told=told)

    assert suppressed(made)[0] == ("SC0903 dying-relu at encoder.0.act", "sparse by design")
    for text in (terminal.render(made, width=200), markdown.render(made)):
        assert "sparse by design" in text
        assert "covers nothing any more" in text
    assert '"justification": "sparse by design"' in sarif.render(made)
    assert made.status == "pass"
