from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stabcheck import userland
from stabcheck.loading import EntryPoint, load_entry, source_of
from stabcheck.setup import TrainingSetup
from stabcheck.targets import TargetError
from stabcheck.userland import UserCodeError

SETUP = """
from torch import nn

def setup():
    return {"model": nn.Linear(1, 1), "train_loader": []}
"""


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and neither modules nor paths left by other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(userland, "_adopted", set())
    for name in [name for name, module in sys.modules.items() if is_of(tmp_path.parent, module)]:
        del sys.modules[name]
    return tmp_path


def is_of(folder: Path, module: ModuleType) -> bool:
    """Whether a module, or a package that is only a folder, lies below `folder`."""
    known = getattr(module, "__dict__", {})
    places = [known.get("__file__"), *map(str, known.get("__path__") or ())]
    return any(str(place).startswith(str(folder)) for place in places)


def write(name: str, text: str = SETUP) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(target: str, **arguments: str) -> str:
    with pytest.raises(TargetError) as error:
        load_entry(target, arguments)
    return str(error.value)


# --- finding the function


@pytest.mark.parametrize("target", ["train.py:setup", "./train.py:setup", "train:setup", "experiments/train.py:setup"])
def test_ways_to_name_a_function(target: str) -> None:
    write(target.removeprefix("./").partition(":")[0].removesuffix(".py") + ".py")

    assert isinstance(load_entry(target).build(), TrainingSetup)


def test_module_in_a_package() -> None:
    write("pkg/__init__.py", "")
    write("pkg/models.py", "from torch import nn\nNet = nn.Linear\n")
    write("pkg/train.py", "from .models import Net\ndef setup():\n    return Net(1, 1), []\n")

    assert load_entry("pkg.train:setup").build().model.in_features == 1


def test_file_finds_its_neighbours() -> None:
    write("code/helpers.py", SETUP)
    write("code/train.py", "from helpers import setup\n")

    assert load_entry("code/train.py:setup").build().train_loader == []


def test_method_of_an_object_is_a_function() -> None:
    write("train.py", SETUP + "class Project:\n    def make(self):\n        return setup()\n\nproject = Project()\n")

    assert isinstance(load_entry("train.py:project.make").build(), TrainingSetup)


def test_file_called_like_a_module_in_use_does_not_replace_it() -> None:
    write("json.py", SETUP)
    import json

    entry = load_entry("json.py:setup")

    assert entry.build().train_loader == []
    assert sys.modules["json"] is json
    assert load_entry("json.py:setup").function.__module__ == entry.function.__module__


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("train.py", "TARGET 'train.py' names no function: write path/to/file.py:function or package.module:function"),
        ("train.py:", "TARGET 'train.py:' names no function"),
        (":setup", "TARGET ':setup' names no function"),
        ("C:\\code\\train.py", "TARGET 'C:\\\\code\\\\train.py' names no function"),
        ("trian.py:setup", "trian.py: there is no such file (did you mean 'train.py'?)"),
        ("./train:setup", "./train: there is no such file (did you mean 'train.py'?)"),
        ("nowhere/train.py:setup", "nowhere/train.py: there is no such file"),
        ("data/:setup", "data/ is a directory: name the Python file in it"),
        ("notebook.ipynb:setup", "notebook.ipynb is not a Python file: put the function into a .py file"),
        ("train.py:steup", "train.py has no function 'steup' (did you mean 'setup'?)"),
        ("train.py:number", "'number' in train.py is not a function"),
        (
            "train.py:Project.make",
            "train.py:Project.make is a method: name a function that makes the object and calls it",
        ),
        ("nopkg.train:setup", "no module named 'nopkg.train' here or in the installed packages"),
        ("data.train:setup", "no module named 'data.train' here or in the installed packages"),
    ],
)
def test_target_that_leads_nowhere(target: str, says: str) -> None:
    write("train.py", SETUP + "number = 3\nclass Project:\n    def make(self): ...\n")
    write("notebook.ipynb", "{}")
    Path("data").mkdir()

    assert refusal(target).startswith(says)


# --- importing it


def broken(target: str) -> UserCodeError:
    with pytest.raises(UserCodeError) as error:
        load_entry(target)
    return error.value


def test_missing_library_says_for_which_python() -> None:
    write("train.py", "import torchfoo.bar\n")

    error = broken("train.py:setup")

    assert error.message == (
        f"ModuleNotFoundError: No module named 'torchfoo'; install it for the Python that runs stabcheck, {sys.executable}"
    )
    assert (error.stage, error.file, error.line) == ("import of train.py", str(Path("train.py").resolve()), 1)


def test_module_of_the_project_says_how_to_name_the_target() -> None:
    write("mylib/__init__.py", "")
    write("scripts/train.py", "import mylib\n" + SETUP)

    message = broken("scripts/train.py:setup").message

    assert message.endswith("mylib is in the current directory: write the target as scripts.train:setup")
    # In a process of its own: in this one, other tests have their word in what a folder of this name is.
    code = "from stabcheck.loading import load_entry; print(type(load_entry('scripts.train:setup').build()).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "TrainingSetup", done.stderr


def test_relative_import_says_how_to_name_the_target() -> None:
    write("src/pkg/__init__.py", "")
    write("src/pkg/train.py", "from .models import Net\n")

    message = broken("src/pkg/train.py:setup").message

    assert message.endswith("it belongs to the package pkg: go to src and write the target as pkg.train:setup")


def test_relative_import_from_inside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    write("inner_pkg/__init__.py", "")
    write("inner_pkg/begin.py", "from .models import Net\n")
    above = Path.cwd()
    monkeypatch.chdir("inner_pkg")

    assert broken("begin:setup").message.endswith(
        f"it belongs to the package inner_pkg: go to {above} and write the target as inner_pkg.begin:setup"
    )


def test_what_argparse_misses_is_said() -> None:
    text = "import argparse\ndef setup():\n    p = argparse.ArgumentParser()\n"
    write("train.py", text + "    p.add_argument('--data-dir', required=True)\n    p.parse_args([])\n")

    with pytest.raises(UserCodeError) as error:
        load_entry("train.py:setup").build()

    assert error.value.message.startswith("argparse: the following arguments are required: --data-dir; set sys.argv")
    assert error.value.line == 5


def test_missing_module_inside_an_existing_one_is_the_users_error() -> None:
    write("train.py", "import torch.foo\n")

    assert broken("train:setup").message == "ModuleNotFoundError: No module named 'torch.foo'"


def test_failed_import_leaves_no_half_module() -> None:
    write("train.py", "1 / 0\n")
    broken("train.py:setup")
    write("train.py", SETUP)

    assert isinstance(load_entry("train.py:setup").build(), TrainingSetup)


def test_target_in_an_installed_package_is_the_users(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("lib/site-packages/installed_pkg/__init__.py", "")
    write("lib/site-packages/installed_pkg/train.py", "def setup():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(clean / "lib" / "site-packages")

    with pytest.raises(UserCodeError) as error:
        load_entry("installed_pkg.train:setup").build()

    assert error.value.line == 2


# --- arguments


ARGUMENTS = """
from pathlib import Path
from typing import Literal

def setup(n: int, rate: float = 0.1, name="x", flag: bool = False, path: Path = None, sizes: list[int] = (),
          kind: Literal["a", "b"] = "a", guess=1, odd: "NoSuchType" = None, maybe: int | None = None):
    return locals()
"""


def test_arguments_are_parsed_by_their_annotations() -> None:
    write("train.py", ARGUMENTS.replace('odd: "NoSuchType" = None, ', ""))
    given = {
        "n": "3",
        "rate": "1e-3",
        "flag": "yes",
        "path": "a/b",
        "sizes": "[1, 2]",
        "kind": "b",
        "guess": "2.5",
        "maybe": "4",
    }

    entry = load_entry("train.py:setup", given)

    assert entry.arguments == {
        "n": 3, "rate": 1e-3, "flag": True, "path": Path("a/b"), "sizes": [1, 2], "kind": "b", "guess": 2.5, "maybe": 4,
    }  # fmt: skip
    assert entry.texts == given


def test_annotation_that_cannot_be_resolved_leaves_the_text() -> None:
    write("train.py", ARGUMENTS)

    assert load_entry("train.py:setup", {"n": "3", "name": "7"}).arguments == {"n": "3", "name": "7"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "train.py:setup needs the argument 'n': give it a default or pass --arg n=VALUE"),
        ({"n": "three"}, "--arg n=three: not a valid int (Input should be a valid integer"),
        ({"n": "3", "kind": "c"}, "--arg kind=c: not a valid "),
        ({"n": "3", "rat": "1"}, "--arg rat: train.py:setup takes no such argument (did you mean 'rate'?)"),
    ],
)
def test_wrong_arguments(given: dict[str, str], says: str) -> None:
    write("train.py", ARGUMENTS.replace('odd: "NoSuchType" = None, ', ""))

    assert refusal("train.py:setup", **given).startswith(says)


def test_keyword_arguments_of_any_name_are_passed_on() -> None:
    write("train.py", "def setup(**options):\n    return options\n")

    assert load_entry("train.py:setup", {"depth": "3"}).arguments == {"depth": "3"}


# --- calling it


def entry(function: Any) -> EntryPoint:
    return EntryPoint("train.py:setup", function, {})


def test_every_call_starts_in_the_same_directory() -> None:
    Path("data").mkdir()
    seen = []

    def setup() -> tuple[Any, ...]:
        from torch import nn

        seen.append(os.getcwd())
        os.chdir("data")
        return nn.Linear(1, 1), []

    made = entry(setup)
    made.build()
    made.build()

    assert seen == [str(Path(made.folder))] * 2
    assert os.getcwd() == os.path.join(made.folder, "data")


def test_warning_filters_of_the_user_stay_inside() -> None:
    def setup() -> tuple[Any, ...]:
        from torch import nn

        warnings.simplefilter("error")
        return nn.Linear(1, 1), []

    before = list(warnings.filters)
    entry(setup).build()

    assert warnings.filters == before


def test_wrong_set_up_is_at_the_function_that_returned_it() -> None:
    def setup() -> None:
        return None

    with pytest.raises(UserCodeError, match="it returned None") as error:
        entry(setup).build()

    assert (error.value.stage, error.value.file) == ("setup()", __file__)
    assert error.value.line == setup.__code__.co_firstlineno


def test_source_of_looks_through_wrappers() -> None:
    def plain() -> None: ...

    @functools.wraps(plain)
    def wrapped() -> None: ...

    class Thing:
        def __call__(self) -> None: ...

    line = plain.__code__.co_firstlineno
    assert source_of(plain) == source_of(wrapped) == source_of(functools.partial(plain, 1)) == (__file__, line)
    assert source_of(Thing()) == source_of(Thing)
    assert source_of(len) is None
