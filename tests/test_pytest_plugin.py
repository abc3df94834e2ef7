"""The plugin, used as a project would: in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stabcheck.pytest_plugin import assert_healthy

ROOT = Path(__file__).parent.parent
SAMPLE = "sample_models/mlp.py"


def run_pytest(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    plain = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "stabcheck.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-q",
        "--no-header",
    ]
    environment = {"PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run([*plain, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]")
    return tmp_path


def test_each_check_is_a_test(empty: Path) -> None:
    target = f"{ROOT / SAMPLE}:prior_in_every_bias"

    done = run_pytest(
        "-rs", "--stabcheck", target, "--stabcheck-select", "dying-relu,gradient-norms,eval-mode", cwd=empty
    )

    assert done.returncode == 1, done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert "FAIL  SC0901 born-dead-layer" in done.stdout
    assert "pytest_plugin.py" not in done.stdout


def test_a_healthy_setup_passes_and_a_skip_says_why(empty: Path) -> None:
    done = run_pytest(
        "-rs", "--stabcheck", f"{ROOT / SAMPLE}:healthy", "--stabcheck-select", "dying-relu,lr-schedule", cwd=empty
    )

    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "'scheduler'" in done.stdout


def test_bad_options_are_a_usage_error(empty: Path) -> None:
    done = run_pytest("--stabcheck", "a.py:f", "--stabcheck-select", "dying-rely", cwd=empty)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "did you mean 'dying-relu'?" in done.stderr


def test_the_fixture_and_the_assertion(empty: Path) -> None:
    (empty / "test_it.py").write_text(f"""
import sys
import pytest
from stabcheck.pytest_plugin import assert_healthy

def test_no_torch_yet():
    assert "torch" not in sys.modules

def test_fixture(stabcheck_run):
    report = stabcheck_run({str(ROOT / SAMPLE)!r} + ":healthy", select=("dying-relu",))
    assert report.status == "pass"

def test_assertion():
    with pytest.raises(AssertionError, match="SC0901 born-dead-layer"):
        assert_healthy({str(ROOT / SAMPLE)!r} + ":prior_in_every_bias", select=["dying-relu"])
""")

    done = run_pytest(cwd=empty)

    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_function_that_no_other_process_can_find_is_refused() -> None:
    def inner() -> None: ...

    with pytest.raises(ValueError, match="give a function at the top level of a file"):
        assert_healthy(inner)
