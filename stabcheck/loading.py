"""From a TARGET on the command line to the user's entry function. Every way to fail has its own message.

`path/to/file.py:function` imports the file with its folder on `sys.path`, as `python file.py` would;
`package.module:function` imports from the current directory and the installed packages.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import typing
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from stabcheck.setup import SetupError, TrainingSetup, as_setup, nearest
from stabcheck.targets import TargetError, existing, is_file, no_module, parts
from stabcheck.userland import UserCodeError, adopt, is_users, shown, userland


@dataclass(frozen=True)
class EntryPoint:
    """The user's function, with its arguments bound, ready to be called as often as needed."""

    target: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)
    """The arguments as `load_entry` was given them, to load the same entry in another process."""
    folder: str = field(default_factory=os.getcwd)
    """The current directory at the time of loading, where every call starts."""

    def build(self) -> TrainingSetup:
        """A fresh set-up.

        Raises:
            UserCodeError: the function raised, or what it returned is no set-up.
        """
        name = f"{self.function.__name__}()" if hasattr(self.function, "__name__") else "the entry function"
        with userland(name), _contained(self.folder):
            value = self.function(**self.arguments)
            try:
                return as_setup(value)
            except SetupError as error:
                problem = str(error)
        file, line = source_of(self.function) or (None, None)
        raise UserCodeError(name, problem, file=file, line=line)


@contextmanager
def _contained(folder: str) -> Iterator[None]:
    """Start in `folder`, and let no warning filter set inside act on our own code afterwards."""
    with warnings.catch_warnings():
        os.chdir(folder)
        yield


def load_entry(target: str, arguments: Mapping[str, str] | None = None) -> EntryPoint:
    """Import TARGET and bind `arguments` (name -> text, parsed by the parameter's annotation).

    Raises:
        TargetError: TARGET is malformed, absent, not callable, or does not take these arguments.
        UserCodeError: importing the user's module raised.
    """
    where, name = parts(target)
    folder = os.getcwd()
    with _contained(folder):
        module = _import_file(where, name) if is_file(where) else _import_module(where, name)
    if module.__file__ and not is_users(module.__file__):
        adopt(module.__file__)
    function: Any = module
    for part in name.split("."):
        if not hasattr(function, part):
            known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise TargetError(f"{where} has no function {name!r}{nearest(name, known)}")
        function = getattr(function, part)
    if not callable(function):
        raise TargetError(
            f"{name!r} in {where} is not a function: TARGET must name the function that builds the set-up"
        )
    texts = dict(arguments or {})
    return EntryPoint(target, function, _bind(target, function, texts), texts, folder)


def source_of(item: Any) -> tuple[str, int] | None:
    """File and line where a function, method, partial or instance's class is defined; None if Python cannot tell."""
    while hasattr(item, "func"):
        item = item.func
    item = inspect.unwrap(item) if callable(item) else item
    if not (inspect.isclass(item) or inspect.isroutine(item)):
        item = type(item)
    try:
        file = inspect.getsourcefile(item)
        line = inspect.getsourcelines(item)[1]
    except (OSError, TypeError):
        return None
    return (file, max(line, 1)) if file else None


def _import_file(where: str, function: str) -> ModuleType:
    path = existing(where)
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    # A script called like a module in use (random.py, train.py) must not take its place. The name is the same in
    # every process, for what is pickled in one and read in another.
    free = path.stem.isidentifier() and path.stem not in sys.modules
    name = path.stem if free else f"stabcheck_target_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{where} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with userland(f"import of {path.name}"):
            spec.loader.exec_module(module)
    except UserCodeError as error:
        sys.modules.pop(name, None)
        raise _advised(error, path, function) from error.__cause__
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _import_module(where: str, function: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()  # the file may be younger than what is known of its folder
    try:
        with userland(f"import of {where}"):
            return importlib.import_module(where)
    except UserCodeError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and (where + ".").startswith(missing.name + "."):
            raise TargetError(no_module(where)) from None
        raise _advised(error, None, function) from error.__cause__


def _advised(error: UserCodeError, path: Path | None, function: str) -> UserCodeError:
    """The error of a failed import, with what to do about it where that is known."""
    cause, advice = error.__cause__, ""
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        top = cause.name.partition(".")[0]
        if path is not None and (Path(top).is_dir() or Path(f"{top}.py").exists()):
            advice = f"{top} is in the current directory: write the target as {_dotted(path, Path.cwd())}:{function}"
        elif top not in sys.modules and importlib.util.find_spec(top) is None:
            advice = f"install it for the Python that runs stabcheck, {sys.executable}"
    elif isinstance(cause, ImportError) and error.file and "relative import" in str(cause):
        path = path or Path(error.file)
        root = path.parent
        while (root / "__init__.py").exists():
            root = root.parent
        go = "" if root == Path.cwd() else f"go to {shown(str(root))} and "
        dotted = _dotted(path, root)
        advice = f"it belongs to the package {dotted.partition('.')[0]}: {go}write the target as {dotted}:{function}"
    if not advice:
        return error
    message = f"{error.message}; {advice}"
    return UserCodeError(error.stage, message, file=error.file, line=error.line, trace=error.trace, blame=error.blame)


def _dotted(path: Path, root: Path) -> str:
    try:
        parts = path.relative_to(root.resolve()).with_suffix("").parts
    except ValueError:
        parts = (path.stem,)
    return ".".join(parts)


def _bind(target: str, function: Callable[..., Any], texts: dict[str, str]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return dict(texts)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
    for name in texts:
        if name not in named and not takes_any:
            raise TargetError(f"--arg {name}: {target} takes no such argument{nearest(name, list(named))}")
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty or parameter.kind in {
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        }:
            continue
        if name == "self":
            raise TargetError(f"{target} is a method: name a function that makes the object and calls it")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TargetError(f"{target} has the positional-only argument {name!r}: remove the '/' after it")
        if name not in texts:
            raise TargetError(f"{target} needs the argument {name!r}: give it a default or pass --arg {name}=VALUE")
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # annotations that cannot be resolved are as good as none
        hints = {}
    kinds = {name: hints.get(name, _kind_of_default(named.get(name))) for name in texts}
    return {name: _parse(name, text, kinds[name]) for name, text in texts.items()}


def _kind_of_default(parameter: inspect.Parameter | None) -> Any:
    """What a parameter without annotation takes, by its default: `lr=0.1` takes a number."""
    default = parameter.default if parameter is not None else None
    if isinstance(default, bool):
        return bool
    return int | float if isinstance(default, (int, float)) else str


def _parse(name: str, text: str, annotation: Any) -> Any:
    if annotation is str or annotation is Any:
        return text
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter = TypeAdapter(annotation)
    except PydanticUserError:  # a type that pydantic does not know gets the text
        return text
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        try:
            return adapter.validate_json(text)
        except ValidationError:
            kind = getattr(annotation, "__name__", str(annotation))
            raise TargetError(f"--arg {name}={text}: not a valid {kind} ({error.errors()[0]['msg']})") from None
