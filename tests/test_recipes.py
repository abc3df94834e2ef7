"""The recipes for CI: valid by the linters made for them, and doing what they say. Nothing here needs a network.

(actionlint would say more of the shell, but its package downloads a binary when it is installed.)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github/workflows/ci.yml"
ACTION = ROOT / ".github/actions/stabcheck/action.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
GITLAB = ROOT / ".gitlab/stabcheck.gitlab-ci.yml"

STAND_IN = """#!/bin/sh
for word in "$@"; do echo "$word" >> "$SEEN"; done
exit "${CODE:-0}"
"""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def linted(schema: str, *files: Path) -> None:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60)

    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("schema", "file"),
    [("github-workflows", WORKFLOW), ("github-actions", ACTION), ("gitlab-ci", GITLAB)],
    ids=["workflow", "action", "gitlab"],
)
def test_recipe_is_valid(schema: str, file: Path) -> None:
    linted(schema, file)


def test_the_linter_sees_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "ci.yml"
    wrong.write_text(WORKFLOW.read_text("utf-8").replace("runs-on:", "run-on:"))

    with pytest.raises(AssertionError, match="run-on"):
        linted("github-workflows", wrong)


def test_hooks_are_valid_to_pre_commit() -> None:
    words = [sys.executable, "-m", "pre_commit", "validate-manifest", str(HOOKS)]

    assert subprocess.run(words, capture_output=True, text=True, timeout=60).returncode == 0


def test_the_workflow_runs_what_is_there() -> None:
    jobs = read(WORKFLOW)["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    local = [step["uses"] for step in steps if step.get("uses", "").startswith("./")]

    assert ".ci/run" in [step.get("run") for step in steps]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert local
    assert all((ROOT / use / "action.yml").is_file() for use in local)
    for step in steps:
        if step.get("uses", "").startswith("./"):
            assert set(step["with"]) <= set(read(ACTION)["inputs"])
            where, _, name = step["with"]["target"].partition(":")
            assert f"def {name}(" in (ROOT / where).read_text("utf-8")


def test_the_action_uses_each_input_and_only_as_a_variable() -> None:
    action = read(ACTION)
    text = ACTION.read_text("utf-8")

    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(action["inputs"])
    assert not any("${{" in step.get("run", "") for step in action["runs"]["steps"])


def stand_in(folder: Path) -> dict[str, str]:
    """The environment in which `stabcheck` is a program that notes its words."""
    program = folder / "bin/stabcheck"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "SEEN": str(folder / "seen")}


def seen(folder: Path) -> list[str]:
    return (folder / "seen").read_text().splitlines()


REPORT = ["-o", "json=stabcheck.json"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target": "train.py:setup"}, ["run", "train.py:setup", *REPORT]),
        ({}, ["run", *REPORT]),
        (
            {"target": "a b.py:setup", "options": " --strict  --select SC03,SC07 ", "baseline": "old report.json"},
            ["run", "a b.py:setup", *REPORT, "--baseline", "old report.json", "--strict", "--select", "SC03,SC07"],
        ),
        ({"options": "--strict\n--select\tSC03\n\n-q\n"}, ["run", *REPORT, "--strict", "--select", "SC03", "-q"]),
        ({"target": "$(touch x)`y`;z", "sarif": "s.sarif"}, ["run", "$(touch x)`y`;z", *REPORT, "-o", "sarif=s.sarif"]),
    ],
)
@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_script_of_the_action(given: dict[str, str], words: list[str], code: int, tmp_path: Path) -> None:
    action = read(ACTION)
    step = next(step for step in action["runs"]["steps"] if step.get("id") == "run")
    values = {name: given.get(name, one["default"]) for name, one in action["inputs"].items()}
    variables = {key: values[re.fullmatch(r"\$\{\{ inputs\.(\S+) \}\}", text)[1]] for key, text in step["env"].items()}  # type: ignore[index]
    environment = {**stand_in(tmp_path), **variables, "CODE": str(code), "GITHUB_OUTPUT": str(tmp_path / "output")}
    # As GitHub calls it for `shell: bash`.
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    found = subprocess.run(shell, env=environment, cwd=tmp_path, timeout=30)

    assert found.returncode == code
    assert seen(tmp_path) == words
    assert (tmp_path / "output").read_text() == f"exit-code={code}\n"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("code", [0, 1])
def test_pre_commit_runs_the_hook_before_a_push(code: int, tmp_path: Path) -> None:
    hook = next(one for one in read(HOOKS) if one["language"] == "system")
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("def setup(): ...\n")
    config = {"repos": [{"repo": "local", "hooks": [{**hook, "args": ["train.py:setup", "--strict"]}]}]}
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    environment = {**stand_in(tmp_path), "CODE": str(code), "PRE_COMMIT_HOME": str(tmp_path / "home")}
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=project, check=True, timeout=30)

    def run(stage: str) -> int:
        words = [sys.executable, "-m", "pre_commit", "run", "--hook-stage", stage, "--all-files"]
        return subprocess.run(words, cwd=project, env=environment, capture_output=True, timeout=60).returncode

    assert run("pre-commit") == 0
    assert not (tmp_path / "seen").exists()
    assert run("pre-push") == code
    assert seen(tmp_path) == ["run", "train.py:setup", "--strict"]


def test_the_hook_in_an_environment_of_its_own_is_the_same() -> None:
    own, system = read(HOOKS)

    assert {**own, "id": "", "description": "", "language": ""} == {
        **system,
        "id": "",
        "description": "",
        "language": "",
    }
    assert (own["language"], own["stages"], own["entry"]) == ("python", ["pre-push"], "stabcheck run")


def test_the_script_of_the_gitlab_job(tmp_path: Path) -> None:
    job = read(GITLAB)["stabcheck"]
    variables = {**job["variables"], "STABCHECK_OPTIONS": "--strict --seed 1"}
    subprocess.run(
        ["sh", "-ec", "\n".join(job["script"])], env={**stand_in(tmp_path), **variables}, check=True, timeout=30
    )

    assert seen(tmp_path) == [
        "run", "train.py:setup", "-o", "junit=stabcheck.xml", "-o", "json=stabcheck.json", "--strict", "--seed", "1",
    ]  # fmt: skip


BLOCKS = re.findall(r"```yaml\n(# (\S+)\n.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
LINTERS = {".github/workflows/": "github-workflows", ".gitlab-ci.yml": "gitlab-ci"}


@pytest.mark.parametrize(("text", "name"), BLOCKS)
def test_a_whole_file_in_the_readme_is_valid(text: str, name: str, tmp_path: Path) -> None:
    """A block that begins with its file's name is the whole file."""
    file = tmp_path / "file.yml"
    file.write_text(text)
    if name == ".pre-commit-config.yaml":
        words = [sys.executable, "-m", "pre_commit", "validate-config", str(file)]
        assert subprocess.run(words, capture_output=True, timeout=60).returncode == 0
        known = [hook["id"] for hook in read(HOOKS)]
        assert all(hook["id"] in known for repo in read(file)["repos"] for hook in repo["hooks"])
    else:
        linted(next(schema for begins, schema in LINTERS.items() if name.startswith(begins)), file)
