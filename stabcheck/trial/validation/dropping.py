"""Functions that drop activations at random: which they are, how strongly a call drops, and who wrote it."""

from __future__ import annotations

import linecache
import re
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

from stabcheck.userland import is_users

Place = tuple[str, int]

_DROPOUT = (("p", 1, 0.5), (("training", "train"), 2, True))
DROPPERS: dict[str, tuple[tuple[str, int, float], tuple[tuple[str, ...], int, bool]]] = {
    **dict.fromkeys(("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"), _DROPOUT),
    **dict.fromkeys(("dropout_", "alpha_dropout_", "feature_dropout_", "feature_alpha_dropout_"), _DROPOUT),
    **dict.fromkeys(("dropout1d", "dropout2d", "dropout3d"), _DROPOUT),
    "scaled_dot_product_attention": (("dropout_p", 4, 0.0), ((), 99, True)),
    "multi_head_attention_forward": (("dropout_p", 10, 0.0), (("training",), 11, True)),
    "rrelu": (("upper", 2, 1 / 3), (("training",), 3, False)),
}
"""Functions that drop at random: the argument with the probability, and the flag that turns dropping on, each as
(name, position, default)."""

DRAWS = {"bernoulli", "bernoulli_", "rand", "rand_like", "uniform_"}
"""Functions with which dropout is written by hand."""

SAYS_DROP = re.compile(r"drop|stochastic_?depth|keep_?prob", re.IGNORECASE)


def strength_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """The probability with which this call drops; None if it drops nothing."""
    (key, position, default), (flags, flag_position, flag_default) = DROPPERS[name]
    flag = next((kwargs[f] for f in flags if f in kwargs), None)
    if flag is None:
        flag = args[flag_position] if len(args) > flag_position else flag_default
    strength = kwargs.get(key, args[position] if len(args) > position else default)
    return float(strength) if flag and strength else None


def is_dropping(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], around: tuple[str, str]) -> bool:
    """Whether this call drops activations: by a function of torch's, or by a random mask made in code whose names say so.
    `around` are the class and the path of the module that is running."""
    if name in DROPPERS:
        return strength_of(name, args, kwargs) is not None
    author = author_of(sys._getframe(1))
    if name not in DRAWS or author is None:
        return False
    said = (around[0], around[1].rpartition(".")[2], author.function, linecache.getline(*author.place))
    return any(SAYS_DROP.search(text) for text in said)


@dataclass(frozen=True)
class Author:
    """The code that made a call."""

    place: Place
    function: str
    users: bool
    """Whether it is in a file of the user's own."""


def author_of(frame: FrameType | None) -> Author | None:
    """Who is calling: the innermost frame outside torch and stabcheck."""
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(("torch.", "stabcheck.")):
            code = frame.f_code
            return Author((code.co_filename, frame.f_lineno), code.co_name, is_users(code.co_filename))
        frame = frame.f_back
    return None
