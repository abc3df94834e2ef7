"""The named numbers of a check's file, which a configuration may change."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from stabcheck.check import Check


def of(check: Check) -> dict[str, float]:
    """Name, as a configuration writes it -> value of every threshold of the check."""
    found = vars(_module(check)).items()
    return {
        name.lower().replace("_", "-"): value
        for name, value in found
        if name.isupper() and not name.startswith("_") and isinstance(value, (int, float))
    }


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
