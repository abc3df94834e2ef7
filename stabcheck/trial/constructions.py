"""Which line of the user's built an object: a layer, a loss, an optimizer, a schedule, a loader.

It is noted while the object is built, so that nothing has to be guessed from the text of a file.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from stabcheck.trial.loop_spy import replaced
from stabcheck.userland import is_users, passed_on

_NOTED = (
    nn.Module,
    Optimizer,
    DataLoader,
    lr_scheduler.LRScheduler,
    # These do not call the one above.
    lr_scheduler.ReduceLROnPlateau,
    lr_scheduler.SequentialLR,
    lr_scheduler.ChainedScheduler,
)


class Constructions:
    """The places of the objects that were built inside `noting`."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[weakref.ref[Any], tuple[str, int]]] = {}
        self.learned = False
        """Weights were loaded, or an optimizer stepped, while a set-up was built: what is fresh by its looks may be pretrained."""

    def place(self, item: object) -> tuple[str, int] | None:
        """File and line of the user's call that built `item`; None if that was not seen."""
        found = self._places.get(id(item))
        return found[1] if found is not None and found[0]() is item else None

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is built inside."""
        before: list[tuple[type, Any]] = [(kind, vars(kind)["__init__"]) for kind in _NOTED if "__init__" in vars(kind)]
        belongs = functools.cache(is_users)
        for kind, original in before:
            setattr(kind, "__init__", self._wrapped(original, belongs))  # noqa: B010 - no plain assignment to a method
        stepping = register_optimizer_step_pre_hook(lambda *_: self._learn())
        loading = replaced(nn.Module, "load_state_dict", self._load)
        try:
            with loading:
                yield
        finally:
            stepping.remove()
            for kind, original in before:
                setattr(kind, "__init__", original)  # noqa: B010

    def _learn(self) -> None:
        self.learned = True

    def _load(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        self.learned = True
        return passed_on(original, *args, **kwargs)

    def _wrapped(self, original: Any, belongs: Any) -> Any:
        @functools.wraps(original)
        def init(self_: Any, *args: Any, **kwargs: Any) -> None:
            self._note(self_, sys._getframe(1), belongs)
            passed_on(original, self_, *args, **kwargs)

        return init

    def _note(self, item: Any, frame: FrameType | None, belongs: Any) -> None:
        if self.place(item) is not None:  # a class that calls the __init__ of its base
            return
        while frame is not None:
            if belongs(frame.f_code.co_filename) and not _is_init_of(item, frame):
                self._remember(item, (frame.f_code.co_filename, frame.f_lineno))
                return
            frame = frame.f_back

    def _remember(self, item: Any, place: tuple[str, int]) -> None:
        key = id(item)
        self._places[key] = weakref.ref(item, lambda _: self._places.pop(key, None)), place


def _is_init_of(item: object, frame: FrameType) -> bool:
    """Whether the frame is the user's own `__init__` of the object, and not the call that builds it."""
    code = frame.f_code
    return code.co_name == "__init__" and frame.f_locals.get(code.co_varnames[0]) is item
