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
    environment = {
        "COLUMNS": "120",
        "PATH": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
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


@pytest.fixture
def project(empty: Path) -> Path:
    """A file with a faulty set-up, and one that cannot be built."""
    (empty / "train.py").write_text(f"""
import sys
sys.path.insert(0, {str(ROOT / "sample_models")!r})
from mlp import healthy, prior_in_every_bias as setup

def broken():
    raise OSError("no such data")
""")
    return empty


def test_the_summary_line_begins_with_what_was_found(project: Path) -> None:
    done = run_pytest("--stabcheck", "train.py:setup", "--stabcheck-select", "dying-relu", cwd=project)

    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FAILED"))
    assert line.startswith("FAILED train.py::setup[dying-relu] - SC0901: ")
    assert "Not checked" not in done.stdout, "only what was found"


def test_items_are_chosen_run_again_and_reported_by_file(project: Path) -> None:
    """Like any other test: by node id, with --lf, and under the file's name in JUnit."""
    given = ("--stabcheck", "train.py:setup", "--stabcheck-select", "dying-relu,eval-mode", "-p", "cacheprovider")

    chosen = run_pytest(*given, "train.py::setup[dying-relu]", cwd=project)
    again = run_pytest(*given, "--lf", "--junit-xml", "out.xml", cwd=project)
    from_elsewhere = run_pytest(*given, "elsewhere", "--collect-only", cwd=_with_folder(project, "elsewhere"))

    assert "1 failed" in chosen.stdout
    assert "passed" not in chosen.stdout
    assert "1 failed" in again.stdout
    assert 'classname="train" name="setup[dying-relu]"' in (project / "out.xml").read_text()
    assert 'message="SC0901: ' in (project / "out.xml").read_text()
    assert "train.py::setup[eval-mode]" in from_elsewhere.stdout


def _with_folder(project: Path, name: str) -> Path:
    (project / name).mkdir()
    return project


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("trian.py:setup", "trian.py: there is no such file (did you mean 'train.py'?)"),
        ("train.py:setpu", "train.py has no function 'setpu' (did you mean 'setup'?)"),
        ("nothing.here:setup", "no module named 'nothing.here'"),
        ("train.py", "names no function"),
    ],
)
def test_a_target_that_is_not_there_is_one_usage_error(project: Path, target: str, said: str) -> None:
    done = run_pytest("--stabcheck", target, cwd=project)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_a_setup_that_cannot_be_built_is_told_once(project: Path) -> None:
    given = ("--stabcheck", "train.py:broken", "--stabcheck-select", "dying-relu,eval-mode,gradient-norms")

    done = run_pytest(*given, cwd=project)

    assert "1 failed, 2 skipped" in done.stdout
    assert "FAILED train.py::broken[gradient-norms] - broken(): OSError: no" in done.stdout


def test_an_assertion_shows_what_was_found_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_healthy(f"{ROOT / SAMPLE}:prior_in_every_bias", select="dying-relu,gradient-norms")

    lines = str(caught.value).splitlines()
    assert lines[0].startswith("SC0901: ")
    assert {"Where", "What", "Why", "Fix"} <= {line.split()[0] for line in lines if line.strip()}
    assert not any("gradient-norms" in line for line in lines)
    assert len(lines) < 25


def test_an_option_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"no option 'stepz' \(did you mean 'steps'\?\)"):
        assert_healthy(f"{ROOT / SAMPLE}:healthy", stepz=10)


def test_bad_options_are_a_usage_error(empty: Path) -> None:
    done = run_pytest("--stabcheck", f"{ROOT / SAMPLE}:healthy", "--stabcheck-select", "dying-rely", cwd=empty)

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
