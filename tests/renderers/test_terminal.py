"""Golden files: `REWRITE_GOLDEN=1 python -m pytest tests/renderers` writes them anew; then read the difference."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import CATALOG, broken, failing, hostile, passing, report_of, result
from rich.cells import cell_len

from stabcheck.catalog import CATALOG as CHECKS
from stabcheck.renderers.docs import render_check
from stabcheck.renderers.findings import is_said
from stabcheck.renderers.terminal import errors_of, render, verdict_line, why
from stabcheck.renderers.text import MIN_WIDTH
from stabcheck.report import CheckError, CheckResult, FindingResult, NotCheckedResult, Report, SourceLine

GOLDEN = Path(__file__).parent.parent / "golden"
SAMPLES = {"passing": passing, "failing": failing, "broken": broken, "hostile": hostile}
BASE = "/home/ada/project"


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize(
    ("look", "width", "color", "ascii"),
    [
        ("40", 40, False, False),
        ("80", 80, False, False),
        ("200", 200, False, False),
        ("80-ascii", 80, False, True),
        ("80-color", 80, True, False),
    ],
)
def test_report_is_the_golden_one(sample: str, look: str, width: int, color: bool, ascii: bool) -> None:
    """The report is a function of the Report and how it is to look, and nothing else."""
    file = GOLDEN / f"{sample}-{look}.txt"
    shown = render(SAMPLES[sample](), width=width, color=color, ascii=ascii, catalog=CATALOG, base=BASE)
    if os.environ.get("REWRITE_GOLDEN"):
        file.write_text(shown, "utf-8")

    assert shown == file.read_text("utf-8")


def test_golden_files_are_all_used() -> None:
    looks = ("40", "80", "200", "80-ascii", "80-color")

    assert {file.name for file in GOLDEN.iterdir()} == {f"{s}-{look}.txt" for s in SAMPLES for look in looks}


@pytest.mark.parametrize("sample", SAMPLES)
def test_ascii_report_is_ascii(sample: str) -> None:
    render(SAMPLES[sample](), ascii=True, verbose=True, catalog=CATALOG).encode("ascii")


@pytest.mark.parametrize("name", ["NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES"])
def test_environment_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = render(failing(), color=True), render(failing(), color=False)
    monkeypatch.setenv(name, "33")

    assert (render(failing(), color=True), render(failing(), color=False)) == expected


def test_no_colour_means_no_escape() -> None:
    assert "\x1b" not in render(hostile(), color=False)


def test_colour_changes_no_character() -> None:
    """Whoever cannot see the colours reads the same report."""
    from rich.text import Text

    colored = render(failing(), color=True, catalog=CATALOG)

    plain = "\n".join(line.rstrip() for line in Text.from_ansi(colored).plain.split("\n"))
    assert plain.strip() == render(failing(), color=False, catalog=CATALOG).strip()


def test_user_strings_are_shown_and_steer_nothing() -> None:
    shown = render(hostile(), width=200, color=True)

    assert "[bold]x[/bold] [/] [link=file:///etc]y" in shown
    assert ":smile:" in shown
    assert "\x1b[31mred" not in shown
    assert "\\x1b[31mred" in shown
    assert not {"\u202e", "\x07", "\r", "\udc80"} & set(shown)


def test_verdict_is_first_and_last() -> None:
    lines = render(failing(), width=200).splitlines()
    verdict = (
        "Do not start this run: 2 checks failed — The gradient at encoder.layers.0 is 3.1e-07 of that at head (SC0701"
    )

    assert [index for index, line in enumerate(lines) if line.startswith(verdict[:60])] == [3, len(lines) - 3]
    assert lines[-1].startswith("More on this: stabcheck explain SC0701.")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (passing(), "No fault found: 5 checks passed (1 skipped)."),
        (broken(), "No verdict: 2 checks could not run — your set-up, val_loader: KeyError: 'label'"),
        (report_of(), "No verdict: nothing was checked."),
        (report_of(result("clean-split", skip_reason="no val_loader")), "No verdict: nothing was checked."),
        (
            report_of(
                result("eval-mode", "bad", FindingResult(code="SC0601", severity="fail", message="m", fix="f")),
                result("clean-split", error=CheckError(blame="target", stage="s", message="boom")),
            ),
            "No verdict: 1 check could not run, and 1 check failed — your set-up, s: boom",
        ),
        (
            report_of(result("eval-mode", "odd", FindingResult(code="SC0601", severity="warn", message="m", fix="f"))),
            "Look before you start: nothing failed, 1 check warned — m (SC0601)",
        ),
    ],
)
def test_verdict_says_what_to_do(report: Report, expected: str) -> None:
    assert verdict_line(report) == expected


def test_what_follows_stands_beneath_its_cause_and_nowhere_else() -> None:
    shown = render(failing(), catalog=CATALOG)

    assert shown.count("SC0901") == 1
    assert shown.index("SC0701 vanishing-gradients") < shown.index("SC0901") < shown.index("SC0101")


def test_why_is_the_first_paragraph() -> None:
    vanishing, _ = CATALOG

    assert why(vanishing).endswith("do not learn in the time you have, however long the run is.")
    assert "\n" not in why(vanishing)
    assert why(replace(vanishing, doc="nothing")) == ""


def test_many_places_of_one_rule_take_few_lines() -> None:
    findings = [
        FindingResult(code="SC0901", severity="fail", message=f"message {n}.", fix="Do it.", location=f"layers.{n}.act")
        for n in range(40)
    ]
    report = report_of(result("dying-relu", "40 layers are dead", *findings))
    shown, everything = render(report, width=100), render(report, width=100, verbose=True)

    assert len(shown.splitlines()) < 30
    assert shown.count("Do it.") == 1
    assert "and 29 more (-v shows them)" in shown
    assert all(f"message {n}." in everything for n in range(40))


def test_tracebacks_are_shortened_unless_asked_for() -> None:
    short, long = render(broken(), width=100), render(broken(), width=100, verbose=True)

    assert "in step_11" in short
    assert "in step_2\n" not in short
    assert "in step_2\n" in long


def test_blame_is_said() -> None:
    shown = render(broken(), width=120)

    assert "Your own code, or how it is called: this is no fault of stabcheck." in shown
    assert "This is a fault of stabcheck, not of your set-up." in shown


def test_one_error_of_many_checks_is_told_once() -> None:
    error = CheckError(blame="target", stage="train_step", message="RuntimeError: boom", traceback="line\n")
    shown = render(report_of(*(result(id, error=error) for id in ("dying-relu", "eval-mode"))), width=120)

    assert shown.count("dying-relu, eval-mode could not run") == 1
    assert shown.count("What  train_step: RuntimeError: boom") == 1


def test_the_same_error_on_another_way_is_no_other_error() -> None:
    ways = {"dying-relu": "one\nway\n", "eval-mode": "way\n"}
    errors = {
        id: CheckError(blame="target", stage="train_step", message="RuntimeError: boom", traceback=way)
        for id, way in ways.items()
    }
    report = report_of(*(result(id, error=error) for id, error in errors.items()))

    assert errors_of(report) == {errors["eval-mode"]: ["dying-relu", "eval-mode"]}


def test_checks_that_did_not_run_for_one_reason_share_a_line() -> None:
    skips = [result(id, skip_reason="no optimizer given") for id in ("gradient-norms", "eval-mode", "dying-relu")]
    shown = render(report_of(result("clean-split", "fine"), *skips), width=200)

    assert "skip   gradient-norms  no optimizer given (the same for eval-mode, dying-relu)" in shown
    assert shown.count("no optimizer given") == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.1214, True), (0.998, True), (7, True), (0.35, False), (12, False), (1.5e-3, True), (1, False)],
)
def test_a_fact_that_the_sentence_has_in_another_form_is_said(value: float, said: bool) -> None:
    finding = FindingResult(
        code="SC0601", severity="fail", message="12% are zero, cosine 1.00, of 7 layers 0.0015", fix="f"
    )

    assert is_said(value, finding) == said


_text = st.text(st.characters(), max_size=40) | st.sampled_from(["[red]", "a" * 300, "日本語" * 20, "\x1b[2J", ""])
_number = st.floats() | st.integers() | st.sampled_from(["NaN", "Infinity", "-Infinity"]) | st.none()
_json = st.recursive(
    _number | st.booleans() | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=8,
)
_norms = st.lists(_number, max_size=30)
_measurements = st.fixed_dictionaries(
    {},
    optional={
        "planned_steps": _json,
        "steps": _norms | _json,
        "rates": st.lists(_norms, max_size=3) | _json,
        "total": _norms | _json,
        "clipped": _norms | _json,
        "parameters": st.lists(
            st.fixed_dictionaries(
                {"name": _text, "median": _number}, optional={"last": _json, "clipped_median": _number}
            ),
            max_size=30,
        )
        | _json,
        "curves": st.dictionaries(_text, _norms, max_size=3) | _json,
        "constant": _json,
        "oracle": _json,
    },
)
_codes = st.sampled_from(["SC0101", "SC0102", "SC0701", "SC0901"])
_findings = st.lists(
    st.builds(
        FindingResult,
        code=_codes,
        severity=st.sampled_from(["warn", "fail"]),
        message=_text,
        location=st.none() | _text,
        source=st.none() | st.builds(SourceLine, file=_text, line=st.integers(1, 10**6)),
        fix=_text,
        evidence=st.dictionaries(_text, _json, max_size=4),
        follows_from=st.none() | _codes,
    ),
    max_size=5,
)


@st.composite
def _checks(draw: st.DrawFn) -> CheckResult:
    error = draw(
        st.none()
        | st.builds(
            CheckError, blame=st.sampled_from(["target", "stabcheck"]), stage=_text, message=_text, traceback=_text
        )
    )
    return result(
        draw(st.sampled_from(["one-batch-overfit", "gradient-norms", "lr-schedule", "dying-relu"])),
        draw(_text),
        *([] if error else draw(_findings)),
        error=error,
        skip_reason=draw(st.none() | _text),
        measurements=draw(_measurements),
        duration_s=draw(st.floats()),
    )


_reports = st.builds(
    lambda checks, not_checked, target: report_of(*checks, not_checked=tuple(not_checked), target=target),
    st.lists(_checks(), max_size=4),
    st.lists(st.builds(NotCheckedResult, what=_text, why=_text), max_size=2),
    _text,
)


@settings(max_examples=60, deadline=None)
@given(report=_reports, width=st.integers(1, 220), color=st.booleans(), ascii=st.booleans(), verbose=st.booleans())
def test_any_report_fits_any_width(report: Report, width: int, color: bool, ascii: bool, verbose: bool) -> None:
    from rich.text import Text

    shown = render(report, width=width, color=color, ascii=ascii, verbose=verbose, catalog=CATALOG)

    shown.encode("ascii" if ascii else "utf-8")
    widest = max(cell_len(Text.from_ansi(line).plain) for line in shown.split("\n"))
    assert widest <= max(width, MIN_WIDTH)


def test_the_verdict_says_what_there_was_no_time_for() -> None:
    late = result("learning-rate", skip_reason="did not fit --budget 5 s")
    other = result("clean-split", skip_reason="no val_loader given: add 'val_loader' to the set-up")

    assert "1 check passed (2 skipped, 1 of them for lack of time)" in verdict_line(
        report_of(result("a", "s"), late, other)
    )


def test_the_verdict_is_a_clause_with_rule_and_place_and_the_sentence_stands_once() -> None:
    message = (
        "AdamW steps on old gradients: zero_grad() is never called; in call 2 the batch gives a gradient of norm 1"
    )
    finding = FindingResult(
        code="SC1501", severity="fail", message=message, fix="f", source=SourceLine(file=f"{BASE}/train.py", line=7)
    )
    shown = render(report_of(result("training-loop", message, finding)), width=300, base=BASE)

    verdict = "Do not start this run: 1 check failed — AdamW steps on old gradients (SC1501 at train.py:7)"
    assert [line for line in shown.splitlines() if line.startswith("Do not")] == [verdict, verdict]
    assert " ".join(shown.split()).count("zero_grad() is never called") == 1


def test_what_no_set_up_changes_is_left_to_explain() -> None:
    check = next(check for check in CHECKS if check.beyond)
    never = NotCheckedResult(what=f"{check.id}, other: {check.beyond[0].what}", why=check.beyond[0].why)
    here = NotCheckedResult(what=f"{check.id}: the peak", why="the trial ran in the warm-up")
    report = report_of(result(check.id, "fine")).model_copy(update={"not_checked": (never, here)})

    shown = " ".join(render(report, width=300, catalog=CHECKS).split())

    assert "the trial ran in the warm-up" in shown
    assert check.beyond[0].what not in shown
    assert check.beyond[0].what in " ".join(render_check(check, check.rules).split())
    assert check.beyond[0].what in report.to_json()
