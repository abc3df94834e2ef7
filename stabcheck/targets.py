"""What a TARGET names, as far as it can be known without running anything of the user's."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from stabcheck.setup import nearest


class TargetError(Exception):
    """TARGET does not lead to an entry function. The message is one line: what is wrong and what to do."""


def find(target: str) -> Path | None:
    """The file of TARGET, without running anything of it; None for a module that is not below the current directory.

    Raises:
        TargetError: TARGET is malformed, or there is no such file, module or function.
    """
    where, name = parts(target)
    if is_file(where):
        path = existing(where)
    else:
        folded = Path(*where.split("."))
        path = next((p.resolve() for p in (folded.with_suffix(".py"), folded / "__init__.py") if p.exists()), folded)
        if path is folded:
            top = where.partition(".")[0]
            if not Path(top).is_dir() and importlib.util.find_spec(top) is None:
                raise TargetError(no_module(where))
            return None
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError):  # importing it says more
        return path
    known = _names(tree)
    first = name.partition(".")[0]
    if first not in known and "*" not in known and "__getattr__" not in known:
        raise TargetError(f"{where} has no function {name!r}{nearest(first, sorted(known))}")
    return path


def _names(tree: ast.Module) -> set[str]:
    """The names that a module may have at its top level; "*" if it takes over others that cannot be known."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"globals", "setattr"}:
            found.add("*")
    return found


def parts(target: str) -> tuple[str, str]:
    """(file or module, function).

    Raises:
        TargetError: it has not both.
    """
    where, separator, name = target.rpartition(":")
    if not separator or not where or not name or "/" in name or "\\" in name:
        raise TargetError(
            f"TARGET {target!r} names no function: write path/to/file.py:function or package.module:function"
        )
    return where, name


def is_file(where: str) -> bool:
    """Whether it is the path of a file, not a module's name."""
    return where.endswith((".py", ".ipynb")) or "/" in where or "\\" in where


def existing(where: str) -> Path:
    """The Python file at that path.

    Raises:
        TargetError: there is none.
    """
    path = Path(where).resolve()
    if path.is_dir():
        raise TargetError(f"{where} is a directory: name the Python file in it")
    if not path.exists():
        script = path.with_suffix(".py")
        near = f" (did you mean {script.name!r}?)" if script.exists() else ""
        if not near and path.parent.is_dir():
            near = nearest(path.name, [p.name for p in path.parent.glob("*.py")])
        raise TargetError(f"{where}: there is no such file{near}")
    if path.suffix != ".py":
        raise TargetError(f"{where} is not a Python file: put the function into a .py file")
    return path


def no_module(where: str) -> str:
    """What is wrong where a module cannot be found."""
    return f"no module named {where!r} here or in the installed packages"
