"""Checks of other packages: found by their entry point, run in the worker, reported with ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stabcheck.catalog import CATALOG, wrong_with
from stabcheck.check import Outcome, Rule, experiment

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "stabcheck/docs/adding-a-check.md"
CHECK = PAGE.read_text().partition("```python\n")[2].partition("```")[0].replace("100_000", "100")
"""The example that people start from."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package that brings one check."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme/__init__.py").write_text("")
    (tmp_path / "acme/fits_device.py").write_text(CHECK)
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[stabcheck.checks]\nfits-device = acme.fits_device:CHECK\n")
    return tmp_path


def stabcheck(package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{package}"}
    return subprocess.run(
        [sys.executable, "-m", "stabcheck", *words],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_check_of_another_package_is_listed_explained_and_run(package: Path) -> None:
    assert "wider than the device" in stabcheck(package, "list").stdout
    assert "Make it narrower" in stabcheck(package, "explain", "ACME0101").stdout

    done = stabcheck(
        package, "run", f"{ROOT / 'sample_models/mlp.py'}:healthy", "--select", "fits-device,dying-relu", "--json", "-"
    )

    assert done.returncode == 1, done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert [(check["id"], check["status"]) for check in checks] == [("dying-relu", "pass"), ("fits-device", "fail")]
    (finding,) = checks[1]["findings"]
    assert finding["code"] == "ACME0101"
    assert checks[1]["summary"] == finding["message"]
    assert finding["evidence"]["count"] == checks[1]["measurements"]["count"] > 100


def test_a_package_that_cannot_be_imported_stops_nothing_else(package: Path) -> None:
    (package / "acme/fits_device.py").write_text("import nothing_of_this_name")
    problem = "the check 'fits-device' of acme cannot be imported: ModuleNotFoundError: No module named"

    shown = stabcheck(package, "list")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert problem in " ".join(shown.stdout.split())
    assert "dying-relu" in shown.stdout
    assert stabcheck(package, "explain", "dying-relu").returncode == 0
    assert "--ignore fits-device" in stabcheck(package, "explain", "fits-device").stdout

    words = ("run", f"{ROOT / 'sample_models/mlp.py'}:healthy", "--select", "dying-relu", "--json", "-", "-q")
    assert stabcheck(package, *words).returncode == 0
    done = stabcheck(package, *words, "--select", "fits-device")
    assert done.returncode == 2
    checks = json.loads(done.stdout)["checks"]
    assert [(check["id"], check["status"]) for check in checks] == [("dying-relu", "pass"), ("fits-device", "error")]
    assert problem in checks[1]["error"]["message"]
    blamed = stabcheck(package, "run", words[1], "--select", "fits-device").stdout
    assert "The package that brings the check, not your set-up" in blamed
    ignoring = stabcheck(package, *words, "--select", "fits-device", "--ignore", "fits-device")
    assert ignoring.returncode == 0


def check(code: str) -> object:
    rule = Rule(code, "some-fault", "warn", message="m", fix="f")
    return experiment(title="t", rules=(rule,))(lambda bench: Outcome("s"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (check("ACME0101"), ""),
        (check("SC9901"), "has the code 'SC9901'"),
        (check("acme01"), "has the code 'acme01'"),
        (CATALOG[0], "takes the id 'one-batch-overfit', which is taken"),
        (print, "is a builtin_function_or_method, not a Check"),
    ],
)
def test_what_a_check_of_others_may_be_called(given: object, problem: str) -> None:
    said = wrong_with(given, list(CATALOG))

    assert said.startswith(problem) if problem else not said
