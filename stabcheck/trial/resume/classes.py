"""What classes of the user's own hold, for all their instances or in slots."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from stabcheck.userland import is_users


def class_attributes(kind: type) -> Iterator[tuple[str, Any]]:
    """The values that a class of the user's own holds for all its instances."""
    own = list(vars(kind).items())
    if _is_users(kind):
        for name, value in own:
            if not name.startswith("__") and not callable(value) and not hasattr(type(value), "__get__"):
                yield name, value


def slot_names(kind: type) -> Iterator[str]:
    """The attributes that the user's own classes keep in `__slots__`."""
    for base in kind.__mro__:
        if _is_users(base):
            names = vars(base).get("__slots__", ())
            yield from [names] if isinstance(names, str) else names


def _is_users(kind: type) -> bool:
    functions = (getattr(value, "__func__", value) for value in vars(kind).values())
    return any(isinstance(f, types.FunctionType) and is_users(f.__code__.co_filename) for f in functions)
