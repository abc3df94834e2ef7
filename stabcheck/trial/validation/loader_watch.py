"""Counting what each loader gives while the user's code iterates over it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from stabcheck.setup import TrainingSetup
from stabcheck.trial import batches
from stabcheck.userland import passed_on


@dataclass
class LoaderWatch(contextlib.AbstractContextManager["LoaderWatch"]):
    """`samples` counts by loader: "train_loader", "val_loader" or "other". A DataLoader counts as the one of the two
    whose dataset it shares. Lists and other built-in containers cannot be watched."""

    setup: TrainingSetup
    samples: dict[str, int] = field(default_factory=dict)
    latest: Any = None
    """The batch that was given last."""
    given: int = 0
    """Batches given so far."""

    def __enter__(self) -> LoaderWatch:
        self._exit = contextlib.ExitStack()
        kinds = {type(self.setup.train_loader), type(self.setup.val_loader), DataLoader}
        for owner in {next((c for c in kind.__mro__ if "__iter__" in vars(c)), kind) for kind in kinds}:
            with contextlib.suppress(TypeError, AttributeError):  # built-in types cannot be patched
                self._patch(owner)
        return self

    def __exit__(self, *exception: object) -> None:
        self._exit.close()

    @property
    def tells_apart(self) -> bool:
        """Whether both loaders can be watched and do not share their data."""
        train, val = self.setup.train_loader, self.setup.val_loader
        data = getattr(train, "dataset", None)
        same = train is val or (data is not None and data is getattr(val, "dataset", None))
        return not same and all(isinstance(x, DataLoader) for x in (train, val) if x is not None)

    def _patch(self, owner: Any) -> None:
        original = owner.__iter__

        def watched(loader: Any) -> Any:
            return _Counted(passed_on(original, loader), self, self._name(loader))

        owner.__iter__ = watched
        self._exit.callback(setattr, owner, "__iter__", original)

    def _name(self, loader: Any) -> str:
        for name in ("val_loader", "train_loader"):
            known = getattr(self.setup, name)
            if known is not None and loader is known:
                return name
        for name in ("val_loader", "train_loader"):
            data = getattr(getattr(self.setup, name), "dataset", None)
            if data is not None and getattr(loader, "dataset", None) is data:
                return name
        return "other"


class _Counted:
    """An iterator that counts samples on their way; everything else is the original's."""

    def __init__(self, original: Iterator[Any], watch: LoaderWatch, name: str) -> None:
        self._original, self._watch, self._name = original, watch, name
        watch.samples.setdefault(name, 0)

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Any:
        batch = passed_on(next, self._original)
        self._watch.samples[self._name] += batches.size(batch)
        self._watch.latest, self._watch.given = batch, self._watch.given + 1
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
