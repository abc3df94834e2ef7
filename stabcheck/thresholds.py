"""The named numbers of a check's file, which a configuration may change."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from stabcheck.check import Check


def of(check: Check) -> dict[str, float]:
    """Name, as a configuration writes it -> value of every threshold of the check."""
    found = vars(_module(check)).items()
    return {
        name.lower().replace("_", "-"): value
        for name, value in found
        if name.isupper()
        and not name.startswith("_")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    }


def meanings(check: Check) -> dict[str, str]:
    """Name, as a configuration writes it -> what is written below the number where it is defined; "" for nothing."""
    return {name: _meaning(_module(check), name.replace("-", "_").upper()) for name in of(check)}


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
            module, constant = _module(check), name.replace("-", "_").upper()
            kept.append((module, constant, getattr(module, constant)))
            setattr(module, constant, value)
    try:
        yield
    finally:
        for module, constant, value in reversed(kept):
            setattr(module, constant, value)


def _module(check: Check) -> ModuleType:
    return importlib.import_module(check.run.__module__)
