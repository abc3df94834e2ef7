"""Each sample model is held to what it declares, by all checks together.

`EXPECTED` in a sample's file says which rules its entry functions break: {"function": {"check-id": ["code"]}}. A faulty
sample must fail with exactly these codes (one that only warns may be among them); a healthy one, with nothing declared,
gets no finding at all, not even a warning.

Seed 0 is run by default. The samples are made to hold for others too:

    STABCHECK_SAMPLE_SEEDS=0,1,2,3,4 python -m pytest tests/test_samples.py
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stabcheck import engine
from stabcheck.catalog import CATALOG
from stabcheck.report import CheckResult

FOLDER = Path(__file__).resolve().parent.parent / "sample_models"
SEEDS = tuple(int(seed) for seed in os.environ.get("STABCHECK_SAMPLE_SEEDS", "0").split(","))
FAMILIES = {"mlp", "plain_cnn", "cnn", "rnn", "language_model", "autoencoder", "diffusion", "finetune"}
UNLIMITED = 3600.0


def declared(file: Path) -> dict[str, dict[str, list[str]]] | None:
    """`EXPECTED` of a file, read without running it; None if it declares none."""
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "EXPECTED":
            expected: dict[str, dict[str, list[str]]] = ast.literal_eval(statement.value)
            return expected
    return None


FILES = {file: expected for file in sorted(FOLDER.glob("*.py")) if (expected := declared(file)) is not None}
SAMPLES = {f"{file.stem}:{name}": codes for file, expected in FILES.items() for name, codes in expected.items()}


@pytest.fixture(scope="module")
def host() -> Iterator[engine.Host]:
    """One parent of all workers, so that torch is imported once; one thread each, as the models are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with engine.Host() as host:
            yield host


def findings(checks: tuple[CheckResult, ...]) -> dict[str, dict[str, str]]:
    """Check id -> {code: severity} of all findings that count: those that follow from another do not."""
    found = {c.id: {f.code: f.severity for f in c.findings if f.follows_from is None} for c in checks}
    return {name: codes for name, codes in found.items() if codes}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_sample_breaks_exactly_the_rules_it_declares(sample: str, seed: int, host: engine.Host) -> None:
    file, _, name = sample.partition(":")
    options = engine.Options(seed=seed, budget=UNLIMITED, check_timeout=UNLIMITED)
    report = engine.run(f"{FOLDER / file}.py:{name}", options, host=host)

    problems = {check.id: check.error.message for check in report.checks if check.error}
    assert not problems
    found, expected = findings(report.checks), SAMPLES[sample]
    wanted = {(check, code) for check, codes in expected.items() for code in codes}
    failed = {(check, code) for check, codes in found.items() for code, severity in codes.items() if severity == "fail"}
    warned = {(check, code) for check, codes in found.items() for code, severity in codes.items() if severity == "warn"}
    assert failed | (warned & wanted) == wanted
    if not expected:
        assert not warned


@pytest.mark.parametrize("check", [check.id for check in CATALOG])
def test_every_check_has_a_faulty_sample(check: str) -> None:
    assert any(check in expected for expected in SAMPLES.values())


def test_every_family_has_a_healthy_and_a_faulty_sample() -> None:
    assert {file.stem for file in FILES} == FAMILIES
    for file, expected in FILES.items():
        assert "healthy" in expected, file
        assert any(expected.values()), file


def test_declared_codes_belong_to_their_checks() -> None:
    known = {check.id: {rule.code for rule in check.rules} for check in CATALOG}
    for sample, expected in SAMPLES.items():
        for check, codes in expected.items():
            assert set(codes) <= known[check], sample
        assert bool(expected) != ("healthy" in sample), sample


def test_declared_samples_are_functions_without_required_parameters() -> None:
    for file, expected in FILES.items():
        functions = {node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
        for name in expected:
            assert len(functions[name].args.args) == len(functions[name].args.defaults), f"{file.stem}:{name}"


def test_samples_need_only_torch_and_numpy() -> None:
    allowed = {"copy", "dataclasses", "itertools", "math", "pathlib", "numpy", "torch", "small_data", "stabcheck"}
    for file in FOLDER.glob("*.py"):
        assert imports(file) <= allowed, file


def imports(file: Path) -> set[str]:
    """Top-level packages that a file imports."""
    names: list[Any] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


def test_data_is_small_and_its_licences_are_noted() -> None:
    notes = (FOLDER / "data" / "README.md").read_text()
    files = [file for file in (FOLDER / "data").iterdir() if file.name != "README.md"]
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in files:
        (line,) = [line for line in notes.splitlines() if line.startswith(f"| `{file.name}` |")]
        assert line.split("|")[4].strip(), file.name
