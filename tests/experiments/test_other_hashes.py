"""What changes with the hashes of strings, which each process draws anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stabcheck.experiments import checkpoint_resume, determinism
from stabcheck.loading import load_entry
from stabcheck.trial.bench import Bench
from stabcheck.trial.elsewhere import depends_on_hashes
from stabcheck.trial.nursery import Nursery
from stabcheck.trial.resume.encoding import renumbered, reordered
from tests.experiments import hash_cases
from tests.setups import classifier

MakeBench = Callable[..., Any]


@pytest.fixture
def bench(tmp_path: Path, nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Bench]:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    return lambda name: Bench(load_entry(f"{hash_cases.__file__}:{name}"), seed=0, scratch=tmp_path, nursery=nursery)


@pytest.mark.parametrize("name", ["labels_numbered", "columns_in_order_of_names"])
def test_codes_that_no_checkpoint_brings_back(bench: Callable[[str], Bench], name: str) -> None:
    outcome = checkpoint_resume.CHECK.run(bench(name))
    assert [(f.code, f.severity) for f in outcome.findings] == [("SC0414", "fail")]


@pytest.mark.parametrize("name", ["labels_sorted", "vocabulary_restored", "seeded_by_name"])
def test_codes_that_are_the_same_and_data_that_are_others(bench: Callable[[str], Bench], name: str) -> None:
    assert checkpoint_resume.CHECK.run(bench(name)).findings == ()


@pytest.mark.parametrize(
    ("name", "what"), [("labels_numbered", "data"), ("seeded_by_name", "data"), ("weights_by_hash", "weights")]
)
def test_another_process_starts_with_something_else(bench: Callable[[str], Bench], name: str, what: str) -> None:
    outcome = determinism.CHECK.run(bench(name))
    assert [(f.code, f.severity, f.evidence["what"]) for f in outcome.findings] == [("SC2006", "warn", what)]


def test_a_sorted_set_is_the_same_everywhere(bench: Callable[[str], Bench]) -> None:
    outcome = determinism.CHECK.run(bench("labels_sorted"))
    assert outcome.findings == ()
    assert outcome.measurements["as_in_another_process"] is True


@pytest.mark.parametrize(
    ("text", "depends"),
    [
        ("names = list({word for word in text})", True),
        ("names = list(set(text))", True),
        ("seed = hash('x')", True),
        ("names = sorted(set(text))", False),
        ("count = len(set(text))", False),
        ("known = text in {'a', 'b'}", False),
        ("seen = set()", False),
        ("seed = 3", False),
    ],
)
def test_sources_that_may_depend_on_hashes(
    tmp_path: Path, bench: Callable[[str], Bench], text: str, depends: bool
) -> None:
    file = tmp_path / "train.py"
    file.write_text(f"def setup(text=()):\n    {text}\n")
    one = bench("labels_sorted")
    one.entry = load_entry(f"{file}:setup")
    assert depends_on_hashes(one) is depends


def test_where_no_other_process_can_load_it_nothing_is_tried(make_bench: MakeBench) -> None:
    assert not depends_on_hashes(make_bench(classifier()))


def test_a_translation_is_told_from_other_data() -> None:
    source = torch.Generator().manual_seed(0)
    ours = torch.randint(0, 20, (400,), generator=source)
    code = torch.randperm(20, generator=source)
    assert renumbered(ours, code[ours]) == int((code != torch.arange(20)).sum())
    assert renumbered(ours, torch.randint(0, 20, (400,), generator=source)) == 0
    assert renumbered(ours, code[ours] // 2) == 0
    assert renumbered(torch.arange(20), code) == 0


def test_columns_in_another_order() -> None:
    ours = torch.randn(50, 6)
    assert reordered(ours, ours[:, [1, 0, 2, 3, 5, 4]])
    assert not reordered(ours, ours)
    assert not reordered(ours, torch.randn(50, 6))
