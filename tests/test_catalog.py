"""What holds for every check. A new check is one file and one line in the catalogue; the rest is tested here."""

from __future__ import annotations

import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest

from stabcheck.catalog import CATALOG, RETIRED
from stabcheck.check import Check, Rule
from stabcheck.renderers import docs

ROOT = Path(__file__).parent.parent

IDS = (
    "one-batch-overfit", "gradient-norms", "clean-split", "checkpoint-resume", "lr-schedule", "eval-mode",
    "vanishing-gradients", "exploding-gradients", "dying-relu", "initialization", "activation-saturation",
    "learning-rate", "loss-trend", "overfitting", "training-loop", "loss-contract", "data-health", "batch-independence",
    "input-dependence", "determinism", "precision", "gradient-accumulation", "linear-collapse", "optimizer-config",
    "distributed-consistency",
)  # fmt: skip
"""The order of the catalogue. A check's place here, from 1, is the number in its codes, for ever."""

CURES = {
    "add",
    "avoid",
    "check",
    "dont",
    "enable",
    "ensure",
    "fix",
    "must",
    "no",
    "not",
    "prefer",
    "set",
    "should",
    "use",
}
"""A rule is named after the fault ("dead-units"), so that "allow dead-units" makes sense; the cure is in `fix`."""

RULES = [(check, rule) for check in CATALOG for rule in check.rules]
every_check = pytest.mark.parametrize("check", CATALOG, ids=lambda check: check.id)
every_rule = pytest.mark.parametrize(("check", "rule"), RULES, ids=[rule.code for _, rule in RULES])


def test_catalogue_is_in_the_fixed_order() -> None:
    ids = [check.id for check in CATALOG]

    assert ids == [id for id in IDS if id in ids]


def test_every_file_is_in_the_catalogue() -> None:
    files = {
        path.stem.replace("_", "-")
        for folder in ("diagnoses", "experiments")
        for path in (ROOT / "stabcheck" / folder).glob("[!_]*.py")
    }

    assert files == {check.id for check in CATALOG}


def test_parts_of_a_check_are_named_after_it() -> None:
    """`_eval_mode_modes.py` belongs to eval-mode; what several checks share is in `stabcheck.trial` or `stabcheck.reading`."""
    parts = [
        path.stem for folder in ("diagnoses", "experiments") for path in (ROOT / "stabcheck" / folder).glob("_[!_]*.py")
    ]
    owners = tuple(f"_{check.id.replace('-', '_')}_" for check in CATALOG)

    assert [part for part in parts if not part.startswith(owners)] == []


@every_check
def test_check_is_documented_in_three_sections(check: Check) -> None:
    titles = re.findall(r"^## (.*)$", check.doc, re.MULTILINE)

    assert tuple(titles) == docs.SECTIONS
    assert all(len(docs.section(check, title).split()) >= 8 for title in titles)


@every_check
def test_check_has_a_summary_for_the_table(check: Check) -> None:
    summary = docs.summary(check)

    assert 20 <= len(summary) <= 130
    assert summary.endswith(".")
    assert "\n" not in summary
    assert check.title
    assert not check.title.endswith(".")


@every_check
def test_check_is_named_after_its_file_and_runs(check: Check) -> None:
    folder = {"diagnosis": "diagnoses", "experiment": "experiments"}[check.kind]

    assert check.run.__module__ == f"stabcheck.{folder}.{check.id.replace('-', '_')}"
    assert callable(check.run)
    assert check.rules
    assert check.needs_trial or check.kind == "experiment"


@every_rule
def test_code_is_the_checks_number_and_the_rules(check: Check, rule: Rule) -> None:
    assert re.fullmatch(r"SC\d{4}", rule.code)
    assert int(rule.code[2:4]) == IDS.index(check.id) + 1
    assert rule.code[4:] != "00"


def test_codes_and_names_are_unique_and_never_come_back() -> None:
    codes = [rule.code for _, rule in RULES]
    names = [rule.name for _, rule in RULES]

    assert len(set(codes)) == len(codes)
    assert len(set(names)) == len(names)
    assert not set(codes) & set(RETIRED)
    assert set(filter(None, RETIRED.values())) <= set(codes)


@every_rule
def test_rule_is_named_after_the_fault(check: Check, rule: Rule) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert rule.name.split("-")[0] not in CURES
    assert rule.severity in {"warn", "fail"}


@every_rule
def test_sentences_begin_small_and_end_open_as_they_stand_behind_a_label(check: Check, rule: Rule) -> None:
    for template in (rule.message, rule.fix):
        assert not re.match(r"[A-Z][a-z]* ", template)
        assert not re.search(r"\.( [A-Z]|$)", template)
    assert re.fullmatch(r"([A-Z].*\.)?", rule.why)


@every_rule
def test_message_and_fix_are_templates_that_say_something(check: Check, rule: Rule) -> None:
    for template in (rule.message, rule.fix):
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]

        assert all(re.match(r"[a-z_]", name) for name in fields)
        assert template.strip() == template
        assert "\n" not in template
        assert docs.sentence(template)
    assert len(rule.message) >= 20


def test_readme_table_is_the_generated_one() -> None:
    """Stale? `REWRITE_GOLDEN=1 python -m pytest tests/test_catalog.py` writes it."""
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    expected = docs.with_table(text, CATALOG)
    if os.environ.get("REWRITE_GOLDEN"):
        readme.write_text(expected, "utf-8")

    assert readme.read_text("utf-8") == expected


def test_catalogue_loads_without_torch_and_numpy() -> None:
    code = "import sys, stabcheck.catalog; print(sorted({'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert found.stdout.strip() == "[]"


def test_every_rule_has_a_case() -> None:
    """Each code stands in a test or in what a sample declares, so a rule that can no longer fire is noticed."""
    folder = Path(__file__).parent
    texts = [
        p.read_text() for p in (*folder.rglob("test_*.py"), *folder.rglob("*_cases.py"), *folder.rglob("*_oddities.py"))
    ]
    texts += [p.read_text() for p in (folder.parent / "sample_models").glob("*.py")]
    written = "\n".join(texts)

    assert [rule.code for check in CATALOG for rule in check.rules if rule.code not in written] == []
