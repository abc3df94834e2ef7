from __future__ import annotations

import json

import pytest
from report_samples import CATALOG
from rich.cells import cell_len

from stabcheck.check import Check, Outcome, Rule
from stabcheck.renderers import docs

DOC = """A fault that | spoils
the run.

## What it looks at
The `forward` of [bold]x[/bold]:

- one thing, which is long enough to be wrapped where the page is as narrow as this one is in the test
- another

## Why it matters
Because.

## What to do
    model.eval()
"""
RULE = Rule("SC0601", "odd-mode", "warn", message="{count:,} of {total_units} are {kind!r}", fix="call {call}")
CHECK = Check("eval-mode", "experiment", "Eval mode", (RULE,), lambda _: Outcome("s"), DOC)


def test_summary_is_the_first_paragraph_on_one_line() -> None:
    assert docs.summary(CHECK) == "A fault that | spoils the run."


def test_sections_are_found_by_title() -> None:
    assert docs.section(CHECK, "Why it matters") == "Because."
    assert docs.section(CHECK, "What to do") == "model.eval()"
    assert docs.section(CHECK, "Nothing") == ""


def test_templates_read_as_sentences() -> None:
    assert docs.sentence(RULE.message) == "<count> of <total units> are <kind>"
    assert docs.sentence(RULE.fix) == "call <call>"
    assert docs.sentence("{remedy}") == "(depends on what is found)"


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("ascii", [True, False])
def test_explanation_has_everything_and_fits(width: int, ascii: bool) -> None:
    page = docs.render_check(CHECK, CHECK.rules, width=width, ascii=ascii)

    for words in ("eval-mode", "What it looks at", "[bold]x[/bold]", "SC0601", "odd-mode", "warn", "call <call>"):
        assert words in page
    assert max(map(cell_len, page.splitlines())) <= width
    assert not ascii or page.isascii()
    assert not any(line.endswith(" ") for line in page.splitlines())


@pytest.mark.parametrize("width", [40, 80])
def test_list_has_a_line_for_each_check(width: int) -> None:
    shown = docs.render_list(CATALOG, width=width)

    assert [line.split()[0] for line in shown.splitlines() if line and line[0] != " "][:2] == [c.id for c in CATALOG]
    assert max(map(len, shown.splitlines())) <= width


def test_list_as_json_has_what_a_program_needs() -> None:
    (entry,) = json.loads(docs.to_json([CHECK]))

    assert entry["id"] == "eval-mode"
    assert entry["summary"] == "A fault that | spoils the run."
    assert entry["rules"] == [
        {"code": "SC0601", "name": "odd-mode", "severity": "warn", "message": RULE.message, "fix": RULE.fix}
    ]


def test_table_replaces_what_is_between_the_markers() -> None:
    before = f"top\n{docs.BEGIN}\nold\n{docs.END}\nbottom\n"
    after = docs.with_table(before, [CHECK])

    assert after.startswith(f"top\n{docs.BEGIN}\n| check |")
    assert after.endswith(f"|\n{docs.END}\nbottom\n")
    assert "old" not in after
    assert "A fault that \\| spoils the run." in after
    assert docs.with_table(after, [CHECK]) == after


@pytest.mark.parametrize("text", ["", docs.BEGIN, docs.END + docs.BEGIN, (docs.BEGIN + docs.END) * 2])
def test_markers_must_be_there_once(text: str) -> None:
    with pytest.raises(ValueError, match="markers"):
        docs.with_table(text, [CHECK])
