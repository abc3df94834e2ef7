from __future__ import annotations

import importlib.util
import os
import traceback
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._utils import ExceptionWrapper

from stabcheck import userland as door
from stabcheck.userland import UsageError, UserCodeError, blamed, userland


def module_of(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def caught(function: object, *arguments: object) -> UserCodeError:
    with pytest.raises(UserCodeError) as error, userland("train_step"):
        function(*arguments)  # type: ignore[operator]
    return error.value


def test_error_knows_stage_place_and_a_trace_without_our_frames(tmp_path: Path) -> None:
    module = module_of(tmp_path / "mine.py", "import json\n\ndef step():\n    return json.loads('{')\n")

    error = caught(module.step)

    assert (error.stage, error.blame) == ("train_step", "target")
    assert error.message.startswith("JSONDecodeError: Expecting property name")
    assert (error.file, error.line) == (str(tmp_path / "mine.py"), 4)
    assert "stabcheck/userland.py" not in error.trace
    assert str(error) == f"train_step: {error.message} ({error.file}:4)"


def test_inner_door_keeps_its_stage() -> None:
    with pytest.raises(UserCodeError) as error, userland("train_step"), userland("model"):
        raise ValueError("no")

    assert error.value.stage == "model"


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (SystemExit(0), "called sys.exit(0): a set-up must return, not exit"),
        (ValueError(), "ValueError"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError("x" * 1000), "ValueError: " + "x" * door.MESSAGE_LENGTH + " …"),
        (ValueError("\x1b[31mred\x1b[0m \udcff"), "ValueError: red ?"),
        (MemoryError(), "MemoryError: out of memory"),
        (GeneratorExit(), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_text_of_an_exception(raised: BaseException, says: str | None) -> None:
    if says is None:
        with pytest.raises(type(raised)), userland("setup"):
            raise raised
        return

    with pytest.raises(UserCodeError) as error, userland("setup"):
        raise raised

    assert error.value.message == says
    error.value.trace.encode()


def test_quitting_the_debugger_passes() -> None:
    import bdb

    with pytest.raises(bdb.BdbQuit), userland("setup"):
        raise bdb.BdbQuit


def test_exception_that_cannot_be_shown() -> None:
    class ShyError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(UserCodeError, match=r"ShyError \(its text cannot be shown: RuntimeError\)"), userland("setup"):
        raise ShyError


def test_syntax_error_is_at_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ndef setup(:\n")

    error = caught(lambda: module_of(tmp_path / "broken2.py", (tmp_path / "broken.py").read_text()))

    assert (error.file, error.line) == (str(tmp_path / "broken2.py"), 2)


def test_long_traceback_loses_its_middle(tmp_path: Path) -> None:
    text = "def even(n):\n    return odd(n + 1)\n\ndef odd(n):\n    return even(n + 1)\n"
    module = module_of(tmp_path / "recursive.py", text)

    error = caught(module.even, 0)

    assert error.message == "RecursionError: maximum recursion depth exceeded"
    assert len(error.trace.splitlines()) == door.TRACE_LINES + 1
    assert "lines left out" in error.trace


def test_error_of_a_data_loader_worker_is_at_the_line_in_the_worker(tmp_path: Path) -> None:
    """As torch makes it of the exception that the other process has sent."""
    module = module_of(
        tmp_path / "loading_data.py",
        "class Data:\n    def __getitem__(self, i):\n        raise ValueError(f'bad {i}')\n",
    )
    try:
        module.Data()[0]
    except ValueError:
        sent = ExceptionWrapper(where="in DataLoader worker process 0")

    error = caught(sent.reraise)

    assert error.message == "ValueError: bad 0 (in a DataLoader worker)"
    assert (error.file, error.line) == (str(tmp_path / "loading_data.py"), 3)


# --- blame


@pytest.fixture
def our_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that counts as one of stabcheck's."""
    folder = tmp_path / "ours"
    folder.mkdir()
    monkeypatch.setattr(door, "_OURS", str(folder) + os.sep)
    return module_of(
        folder / "hooks.py",
        "from stabcheck.userland import passed_on\n\n"
        "def hook(call):\n    raise KeyError('our bug')\n\n"
        "def calls(call):\n    return call()\n\n"
        "def wrapper(function, *args):\n    return passed_on(function, *args)\n\n"
        "def broken_wrapper(function, *args):\n    passed_on(abs, -1)\n    raise KeyError('our bug')\n",
    )


@pytest.fixture
def their_module(tmp_path: Path) -> ModuleType:
    return module_of(
        tmp_path / "theirs.py",
        "def calls(function, *args):\n    return function(*args)\n\ndef fails():\n    raise ValueError('their bug')\n",
    )


def test_our_hook_under_the_users_code_is_our_fault(our_module: ModuleType, their_module: ModuleType) -> None:
    error = caught(their_module.calls, our_module.hook, None)

    assert error.blame == "stabcheck"
    assert "hooks.py" in error.trace


def test_users_callback_under_our_code_is_their_fault(our_module: ModuleType, their_module: ModuleType) -> None:
    assert caught(our_module.calls, their_module.fails).blame == "target"


def test_what_a_wrapper_passes_on_is_their_fault(our_module: ModuleType, their_module: ModuleType) -> None:
    """A C function leaves no frame of its own: the innermost one is the wrapper's."""
    assert caught(their_module.calls, our_module.wrapper, int, "x").blame == "target"
    assert caught(their_module.calls, our_module.wrapper, torch.zeros(2, 3).matmul, torch.zeros(2)).blame == "target"


def test_what_a_wrapper_raises_itself_is_our_fault(our_module: ModuleType, their_module: ModuleType) -> None:
    assert caught(their_module.calls, our_module.broken_wrapper, int, "1").blame == "stabcheck"


def test_without_a_frame_of_the_user_the_default_is_to_blame() -> None:
    error = RuntimeError("from a library")

    assert blamed("model", error).blame == "target"
    assert blamed("model", error, default="stabcheck").blame == "stabcheck"


def test_usage_error_is_the_callers_fault(our_module: ModuleType, their_module: ModuleType) -> None:
    def refuse() -> None:
        raise UsageError("not like that")

    assert caught(their_module.calls, our_module.calls, refuse).blame == "target"


# --- whose file


@pytest.mark.parametrize(
    ("filename", "users"),
    [
        ("/home/me/train.py", True),
        (door.__file__, False),
        (traceback.__file__, False),
        (torch.__file__, False),
        ("/usr/lib/python3/dist-packages/apt.py", False),
        ("/opt/conda/lib/python3.12/site-packages/x/y.py", False),
        ("<string>", False),
        ("<frozen importlib._bootstrap>", False),
    ],
)
def test_is_users(filename: str, users: bool) -> None:
    assert door.is_users(filename) == users


def test_installed_package_that_holds_the_target_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_adopted", set())
    package = tmp_path / "site-packages" / "mine" / "deep"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    other = tmp_path / "site-packages" / "other.py"

    assert not door.is_users(str(package / "train.py"))
    door.adopt(str(package / "train.py"))

    assert door.is_users(str(package.parent / "models.py"))
    assert not door.is_users(str(other))
    door.adopt(str(other))
    assert door.is_users(str(other))


def test_users_frame_is_the_last_one_in_a_trace() -> None:
    trace = (
        '  File "/home/me/a.py", line 3, in f\n  File "/home/me/b.py", line 7, in g\n  File "<string>", line 1, in h\n'
    )

    assert door.users_frame(trace) == ("/home/me/b.py", 7)
    assert door.users_frame("nothing") is None


def test_shown_is_relative_inside_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert door.shown(str(tmp_path / "a" / "b.py")) == os.path.join("a", "b.py")
    assert door.shown(str(tmp_path.parent / "b.py")) == str(tmp_path.parent / "b.py")


def test_fork_of_the_users_does_not_come_back() -> None:
    read, write = os.pipe()
    with userland("setup"):
        pid = os.fork()
        if pid == 0:
            os.close(read)
    # Only the first process gets here.
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    assert os.waitpid(pid, 0)[0] == pid
