"""What a person reads of a comparison, whole pages of it."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from stabcheck.comparison import compare
from stabcheck.renderers.diff import render, verdict
from stabcheck.report import CheckError, FindingResult, Report
from tests.renderers.report_samples import CATALOG, broken, failing, hostile, passing, report_of, result

NAMES = ("old.json", "new.json")


def page(old: Report, new: Report, **look: Any) -> str:
    return render(compare(old, new), NAMES, **{"width": 80, "catalog": CATALOG, **look})


def dead(location: str = "relu", **rest: Any) -> FindingResult:
    fields = {"code": "SC0901", "severity": "fail", "message": "All 64 units are dead.", "location": location}
    return FindingResult.model_validate({**fields, "fix": "Lower the rate.", **rest})


def test_nothing_has_changed() -> None:
    assert page(passing(), passing()).splitlines() == [
        "stabcheck diff · old.json → new.json",
        "train.py:setup",
        "",
        "Nothing has changed.",
    ]


def test_a_page() -> None:
    old = report_of(
        result("gradient-norms", "fine", measurements={"total": [1.0], "parameters": [{"name": "a.w", "median": 0.5}]}),
        result("dying-relu", "every unit fires"),
        result("eval-mode", "fine"),
    )
    behind = dead("later", follows_from="SC0901")
    new = report_of(
        result(
            "gradient-norms", "fine", measurements={"total": [1.0], "parameters": [{"name": "a.w", "median": 0.01}]}
        ),
        result("dying-relu", "100% of relu is dead", dead(), behind),
        result("eval-mode", skip_reason="no val_loader given"),
    )

    assert page(old, new).splitlines() == [
        "stabcheck diff · old.json → new.json",
        "train.py:setup",
        "",
        "Worse: 1 finding appeared; dying-relu newly fails; eval-mode gave no verdict",
        "this time; 1 measurement moved.",
        "",
        "Appeared",
        "  FAIL  SC0901 dead-units · dying-relu at relu",
        "    All 64 units are dead.",
        "    Fix Lower the rate.",
        "    and with it, as it explains them:",
        "    - SC0901 dead-units · dying-relu at later: All 64 units are dead.",
        "",
        "Checks that changed",
        "  - dying-relu: pass → FAIL · 100% of relu is dead",
        "  - eval-mode: pass → skip · no val_loader given",
        "",
        "Moved, by more than another seed does",
        "  - share of the gradient at a: 50% → 1%",
    ]


def test_what_went_and_what_is_suppressed() -> None:
    old = report_of(result("dying-relu", "dead", dead(), dead("other")))
    new = report_of(result("dying-relu", "dead", dead("other", suppressed="until the rewrite")))
    shown = page(old, new)

    assert "Nothing worse: 1 finding went." in shown
    assert "  gone  SC0901 dead-units · dying-relu at relu\n" in shown
    assert "  - SC0901 dying-relu at other: failed before (until the rewrite)\n" in shown
    assert "Fix" not in shown


def test_what_is_not_judged_any_more_has_not_gone() -> None:
    old, new = (
        report_of(result("dying-relu", "dead", dead())),
        report_of(result("dying-relu", skip_reason="no time left")),
    )

    assert "1 finding is not judged any more" in verdict(compare(old, new))
    assert "its check gave no verdict this time: it may be there still" in page(old, new)


def test_what_was_not_judged_before_may_not_be_new() -> None:
    old, new = (
        report_of(result("dying-relu", skip_reason="no time left")),
        report_of(result("dying-relu", "dead", dead())),
    )

    assert "its check gave no verdict before: it may not be new" in page(old, new)


def test_a_state_that_changed_is_said() -> None:
    old = report_of(result("dying-relu", "dead", dead(severity="warn")))
    new = report_of(result("dying-relu", "dead", dead()))

    assert "(before: a warning)" in page(old, new)


def test_another_target_another_seed_and_fewer_steps() -> None:
    environment = {**passing().environment, "seed": 1, "steps": 20}
    new = passing().model_copy(update={"target": "b.py:setup", "environment": environment})
    shown = page(passing(), new, width=200)

    assert "These are reports on different targets: train.py:setup and b.py:setup." in shown
    assert "Not run alike: seed 0 → 1, steps unknown → 20. What is measured over the trial is not compared." in shown


def test_checks_of_a_newer_stabcheck_share_a_line() -> None:
    new = report_of(*passing().checks, *(result(id, "fine") for id in ("precision", "training-loop")))

    assert "  - precision, training-loop: only in the new report, nothing found\n" in page(passing(), new)


def test_a_whole_model_that_moved_is_counted_unless_asked_for() -> None:
    def norms(size: float) -> Report:
        rows = [{"name": f"layer{i}.weight", "median": size} for i in range(30)]
        return report_of(result("gradient-norms", "fine", measurements={"total": [1.0], "parameters": rows}))

    short, long = (page(norms(0.5), norms(0.01), verbose=verbose) for verbose in (False, True))

    assert "and 18 more (-v shows them)" in short
    assert (short.count(" at layer"), long.count(" at layer")) == (12, 30)


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_no_line_is_too_wide_and_nothing_steers_the_terminal(width: int, ascii: bool) -> None:
    for old, new in ((passing(), hostile()), (hostile(), failing()), (failing(), broken()), (broken(), passing())):
        shown = page(old, new, width=width, ascii=ascii)

        assert max(map(cell_len, shown.splitlines())) <= width
        assert "\x1b" not in shown
        assert not ascii or shown.isascii()


def test_colour() -> None:
    assert "\x1b[1;31mWorse" in page(passing(), failing(), color=True)


def test_one_error_of_many_checks_is_one_paragraph() -> None:
    ids = [f"check-{number}" for number in range(12)]
    error = CheckError(blame="target", stage="train_step", message="ValueError: not enough values")

    old, new = (report_of(*(result(id, "fine", error=one) for id in ids)) for one in (None, error))
    shown = page(old, new, width=200)

    assert shown.count("not enough values") == 1
    assert "Worse: 12 checks newly cannot run." in shown
    assert all(id in shown for id in ids)


def test_the_verdict_always_says_what_there_is() -> None:
    """Never "see below": each thing that a page tells has a word in its first sentence."""
    skipped, passed = result("eval-mode", skip_reason="no validate"), result("eval-mode", "fine")
    follows, known = dead(follows_from="SC0802"), dead(suppressed="known")
    pairs = [
        (report_of(skipped), report_of(passed)),
        (report_of(result("dying-relu", "s")), report_of(result("dying-relu", "s", follows))),
        (report_of(result("dying-relu", "s")), report_of(result("dying-relu", "s", known))),
    ]
    said = [verdict(compare(old, new)) for old, new in pairs]

    assert [one.removeprefix("Nothing worse: ") for one in said] == [
        "1 check gave another verdict, none worse.",
        "1 consequence of what is known came or went.",
        "1 finding that is suppressed changed.",
    ]
