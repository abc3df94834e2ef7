from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import report_of, result

from stabcheck.catalog import CATALOG as CHECKS
from stabcheck.check import Check, Outcome, Rule
from stabcheck.renderers.docs import sentence
from stabcheck.renderers.findings import causes, headline, place
from stabcheck.renderers.terminal import whys
from stabcheck.report import FindingResult, SourceLine

DOC = "Title.\n\n## Why it matters\nIt is\nslow.\n\n## What to do\nWait."


def run(_: object) -> Outcome:
    return Outcome("s")


def finding(code: str, severity: str = "fail", after: str | None = None, location: str | None = None) -> FindingResult:
    return FindingResult.model_validate(
        {"code": code, "severity": severity, "message": "m", "fix": "f", "follows_from": after, "location": location}
    )


def shape(*findings: FindingResult) -> list[tuple[str, int, list[str]]]:
    """(code, findings of its own, codes that follow) of each cause, in order."""
    found = causes(report_of(result("dying-relu", "s", *findings)))
    return [(cause.code, len(cause.findings), [one.code for _, one in cause.followers]) for cause in found]


def test_failures_come_before_warnings() -> None:
    assert shape(finding("SC0101", "warn"), finding("SC0901")) == [("SC0901", 1, []), ("SC0101", 1, [])]


def test_what_explains_most_comes_first() -> None:
    assert shape(finding("SC0101"), finding("SC0701"), finding("SC0901", after="SC0701")) == [
        ("SC0701", 1, ["SC0901"]),
        ("SC0101", 1, []),
    ]


def test_findings_of_one_rule_are_one_block() -> None:
    assert shape(finding("SC0901", location="a"), finding("SC0101"), finding("SC0901", location="b")) == [
        ("SC0901", 2, []),
        ("SC0101", 1, []),
    ]


def test_a_chain_ends_at_its_root() -> None:
    assert shape(finding("SC0101"), finding("SC0701", after="SC0101"), finding("SC0901", after="SC0701")) == [
        ("SC0101", 1, ["SC0701", "SC0901"])
    ]


def test_an_absent_cause_leaves_the_finding_on_its_own() -> None:
    assert shape(finding("SC0901", after="SC0701")) == [("SC0901", 1, [])]


def test_a_circle_loses_nothing() -> None:
    found = shape(finding("SC0101", after="SC0901"), finding("SC0901", after="SC0101"))

    assert sorted(code for code, _, _ in found) == ["SC0101", "SC0901"]


@given(
    st.lists(
        st.builds(
            finding,
            st.sampled_from(["SC0101", "SC0102", "SC0701", "SC0901"]),
            st.sampled_from(["warn", "fail"]),
            st.none() | st.sampled_from(["SC0101", "SC0102", "SC0701", "SC0801"]),
        ),
        max_size=8,
    )
)
def test_every_finding_is_shown_once(findings: list[FindingResult]) -> None:
    found = causes(report_of(result("dying-relu", "s", *findings)))

    shown = [id(one) for cause in found for one in [*cause.findings, *(f for _, f in cause.followers)]]
    assert sorted(shown) == sorted(id(one) for one in findings)


@pytest.mark.parametrize(
    ("file", "base", "expected"),
    [
        ("/home/ada/p/m.py", "/home/ada/p", "m.py:3"),
        ("/home/ada/p/m.py", "/home/ada/p/", "m.py:3"),
        ("/home/ada/p/m.py", "/home/ada/pp", "/home/ada/p/m.py:3"),
        ("/home/ada/p/m.py", None, "/home/ada/p/m.py:3"),
        ("/m.py", "/", "m.py:3"),
    ],
)
def test_places_are_relative_to_where_you_are(file: str, base: str | None, expected: str) -> None:
    assert place(SourceLine(file=file, line=3), base) == expected


def test_a_rule_says_itself_why_it_matters_where_its_check_would_mislead() -> None:
    own = Rule("SC0901", "own", "fail", "m", "f", why="it dies")
    check = Check("dying-relu", "diagnosis", "t", (own, Rule("SC0902", "plain", "fail", "m", "f")), run, DOC)

    assert whys([check]) == {"SC0901": "it dies", "SC0902": "It is slow."}


@pytest.mark.parametrize(
    ("message", "clause"),
    [
        ("learning rate 3 is too high: from 3 starts the loss is 9; at 0.3 it is 1", "learning rate 3 is too high"),
        (
            "load() fails in a fresh process: KeyError: 'optimizer'",
            "load() fails in a fresh process: KeyError: 'optimizer'",
        ),
        ("the loss (a: 1; b: 2) is flat; more", "the loss (a: 1; b: 2) is flat"),
        ("a short one.", "a short one"),
        (
            f"the output of {'encoder.' * 9}mlp is the same for every input (only 1e-9 of it varies), and nothing was learnt in 40",
            f"the output of {'encoder.' * 9}mlp is the same for every input",
        ),
    ],
)
def test_a_headline_is_a_whole_clause(message: str, clause: str) -> None:
    assert headline(message) == clause


@pytest.mark.parametrize("rule", [rule for check in CHECKS for rule in check.rules], ids=lambda rule: rule.code)
def test_the_headline_of_every_rule_closes_what_it_opens(rule: Rule) -> None:
    said = headline(sentence(rule.message))

    assert said
    assert all(said.count(opened) == said.count(closed) for opened, closed in ("()", "[]", "{}"))
