from __future__ import annotations

import re
from collections import Counter

import pytest

from stabcheck.catalog import CATALOG
from stabcheck.check import Check
from stabcheck.renderers import docs
from tests.gallery import PAGES, number, shown, table
from tests.test_samples import SAMPLES


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_readme_shows_every_fault_found_by_its_check_with_every_seed() -> None:
    text = shown()
    header, _, *faults, healthy = rows(text)
    seeds = re.search(r"Out of (\d+) seeds", text)
    assert seeds
    assert header == ["fault", *(number(check.id) for check in CATALOG)]
    assert [row[0].strip("`") for row in faults] == [sample for sample, expected in SAMPLES.items() if expected]
    for row in faults:
        found = {check.id: cell for check, cell in zip(CATALOG, row[1:], strict=True) if cell}
        assert found == dict.fromkeys(SAMPLES[row[0].strip("`")], f"**{seeds[1]}**"), row[0]
    assert set(healthy[1:]) == {"0"}


def test_the_table_counts_misses_and_false_alarms() -> None:
    counts = {sample: Counter[str]() for sample in SAMPLES}
    faulty = next(sample for sample, expected in SAMPLES.items() if expected)
    healthy = next(sample for sample, expected in SAMPLES.items() if not expected)
    (declared,) = SAMPLES[faulty]
    other = next(check.id for check in CATALOG if check.id != declared)
    counts[faulty].update([declared, declared, other])
    counts[healthy].update([other])
    header, _, *faults, alarms = rows(table(counts, 3))
    row = dict(zip(header, faults[0], strict=True))
    assert (row[number(declared)], row[number(other)]) == ("**2**", "1")
    assert dict(zip(header, alarms, strict=True))[number(other)] == "1"


@pytest.mark.parametrize("check", CATALOG, ids=lambda check: check.id)
def test_the_page_of_a_check_is_up_to_date(check: Check) -> None:
    text = (PAGES / f"{check.id}.md").read_text()

    assert text.startswith(docs.page(check))
    assert "```text\n" in text
    assert any(rule.code in text.partition("## What it says")[2] for rule in check.rules)
