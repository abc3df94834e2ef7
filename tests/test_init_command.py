"""`stabcheck init` as it is called. The file that it writes is tried in this process, but for one."""

from __future__ import annotations

import ast
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stabcheck import beginning
from stabcheck.cli import main
from tests.starter.scripts import LOOPS, SHAPES

Output = pytest.CaptureFixture[str]
SCRIPT = SHAPES["train function"](LOOPS["plain"][0])


WRITTEN = ("stabcheck_setup", "train", "pkg", "pkg.stabcheck_setup", "pkg.train", "pkg.sizes")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(beginning, "QUICK", dataclasses.replace(beginning.QUICK, in_process=True))
    yield
    for name in WRITTEN:
        sys.modules.pop(name, None)


def _untried(monkeypatch: pytest.MonkeyPatch, *trouble: str) -> None:
    monkeypatch.setattr(beginning, "_trouble", lambda target: list(trouble))


def test_a_script_becomes_an_entry_point_that_runs(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "QUICK", dataclasses.replace(beginning.QUICK, in_process=False))
    Path("train.py").write_text(SCRIPT)

    assert main(["init", "train.py"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("stabcheck_setup.py is written; nothing of yours was imported to write it.\n")
    assert "validate           lambda: evaluate(model, val_loader, criterion)\n" in shown
    assert "It runs: the set-up was built, and trained for a few steps." in shown
    assert "- train_step: your own whole step, called as train_step(batch)" in shown
    assert shown.endswith("Next: stabcheck run stabcheck_setup.py:setup\n")
    ast.parse(Path("stabcheck_setup.py").read_text())


def test_what_keeps_it_from_running_is_said(capsys: Output) -> None:
    Path("train.py").write_text(SCRIPT.replace("x = torch.randn(count, 4)", "x = torch.load('data/absent.pt')"))

    assert main(["init", "train.py"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "It does not run yet: - setup(): FileNotFoundError:" in shown
    assert "data/absent.pt" in shown


def test_a_script_in_a_package_is_named_as_a_module(capsys: Output) -> None:
    Path("pkg").mkdir()
    Path("pkg/__init__.py").write_text("")
    Path("pkg/sizes.py").write_text("WIDTH_OF_ALL = 8\n")
    script = SCRIPT.replace("EPOCHS = 3", "from .sizes import WIDTH_OF_ALL\nEPOCHS = 3")
    Path("pkg/train.py").write_text(script.replace("run(width=4)", "run(width=WIDTH_OF_ALL)"))

    assert main(["init", "pkg/train.py"]) == 0
    assert capsys.readouterr().out.endswith("Next: stabcheck run pkg.stabcheck_setup:setup\n")
    assert "from .train import " in Path("pkg/stabcheck_setup.py").read_text()


def test_nothing_is_ever_overwritten(capsys: Output) -> None:
    Path("train.py").write_text(SCRIPT)
    Path("stabcheck_setup.py").write_text("# mine\n")

    assert main(["init", "train.py"]) == 2
    assert main(["init"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "stabcheck_setup.py is there already and was left as it is" in printed.err
    assert Path("stabcheck_setup.py").read_text() == "# mine\n"


def test_not_even_a_link_that_leads_nowhere(capsys: Output) -> None:
    os.symlink("absent.py", "stabcheck_setup.py")

    assert main(["init"]) == 2
    assert not Path("absent.py").exists()


def test_without_a_script_it_is_a_template(capsys: Output) -> None:
    assert main(["init"]) == 0

    shown = capsys.readouterr().out
    assert "It cannot run yet: model and train_loader must be filled in first." in shown
    assert "GAP model: your model, a torch.nn.Module" in Path("stabcheck_setup.py").read_text()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.py", "def main(:\n", "train.py:1: not valid Python"),
        ("train.py", "%matplotlib inline\n", "begins with % or ! is no Python"),
        ("absent.py", None, "absent.py: No such file or directory"),
        ("train.ipynb", "{}", "export it first, jupyter nbconvert --to script train.ipynb"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_writes_nothing(
    name: str, text: str | None, message: str, capsys: Output
) -> None:
    if text is not None:
        Path(name).write_text(text)

    assert main(["init", name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert message in printed.err
    assert not Path("stabcheck_setup.py").exists()


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)

    assert main(["init"]) == 2
    assert "stabcheck_setup.py: cannot be written (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize("width", [24, 40, 80, 200])
def test_no_line_is_too_wide(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    _untried(monkeypatch, "setup(): ModuleNotFoundError: No module named 'a_module_with_a_long_name_that_is_not_there'")
    monkeypatch.setenv("COLUMNS", str(width))
    Path("train.py").write_text(SCRIPT)
    main(["init", "train.py"])

    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_a_set_up_without_a_loss_does_not_count_as_running(capsys: Output) -> None:
    build = SCRIPT.partition("def run(")[0] + "if __name__ == '__main__':\n"
    build += "    model = Net()\n    train_loader = DataLoader(make_data(), batch_size=8)\n"
    Path("train.py").write_text(build)

    assert main(["init", "train.py"]) == 1
    assert "It does not run yet:" in capsys.readouterr().out
