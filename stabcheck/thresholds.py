"""The named numbers of a check's files, which a configuration may change."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from stabcheck.check import Check


def of(check: Check) -> dict[str, float]:
    """Name, as a configuration writes it -> value of every threshold of the check."""
    return {
        name.lower().replace("_", "-"): value
        for module in _modules(check)
        for name, value in vars(module).items()
        if name.isupper()
        and not name.startswith("_")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    }


def meanings(check: Check) -> dict[str, str]:
    """Name, as a configuration writes it -> what is written below the number where it is defined; "" for nothing."""
    modules = _modules(check)
    return {
        name: next(filter(None, (_meaning(module, name.replace("-", "_").upper()) for module in modules)), "")
        for name in of(check)
    }


def _meaning(module: ModuleType, constant: str) -> str:
    body = ast.parse(inspect.getsource(module)).body
    for place, node in enumerate(body):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            if constant in names:
                return _meaning(importlib.import_module(node.module), names[constant])
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(n, ast.Name) and n.id == constant for target in targets for n in ast.walk(target)):
            after = next(iter(body[place + 1 :]), None)
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return " ".join(str(after.value.value).split())
    return ""


@contextlib.contextmanager
def changed(checks: Iterable[Check], values: Mapping[str, Mapping[str, float]]) -> Iterator[None]:
    """Inside, the checks judge by these values (id of a check -> name -> value)."""
    kept: list[tuple[ModuleType, str, float]] = []
    for check in checks:
        for name, value in values.get(check.id, {}).items():
            constant = name.replace("-", "_").upper()
            for module in _modules(check):
                if hasattr(module, constant):
                    kept.append((module, constant, getattr(module, constant)))
                    setattr(module, constant, value)
    try:
        yield
    finally:
        for module, constant, value in reversed(kept):
            setattr(module, constant, value)


def _modules(check: Check) -> list[ModuleType]:
    """The file of the check and its parts, `_<check>_<part>.py` beside it."""
    own = importlib.import_module(check.run.__module__)
    package, _, stem = own.__name__.rpartition(".")
    if not package:
        return [own]
    beside = pkgutil.iter_modules(importlib.import_module(package).__path__)
    parts = [one.name for one in beside if one.name.startswith(f"_{stem}_")]
    return [own, *(importlib.import_module(f"{package}.{name}") for name in parts)]
