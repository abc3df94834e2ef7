"""How much work is done: as much as its first pieces say, by what they cost the processor, so that a busy machine comes to the
same verdict. The clock only ends what is absurd."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from stabcheck.check import Skip
from stabcheck.trial.bench import Bench

ABSURD = 8.0
"""Times the time that work is planned to take, after which it is broken off: what the processor does not see is waiting, for
a disk, a GPU, or other programs. Eight processes on two cores take four times as long."""
SHARE = 0.2
"""Of what is left of the budget, at most."""
MEASURED = 5
"""Pieces of work of which the cheapest tells how many fit: the first is often far dearer than the others, and threads that wait for
each other on a busy machine cost the processor too."""

T = TypeVar("T")


@dataclass
class Pace:
    """Up to `most` pieces of work, fewer where they cost more than `seconds` of this thread's own time: powers of two, on
    which small differences have no say."""

    seconds: float
    most: float = math.inf
    deadline: float = math.inf
    """time.monotonic() at which the work is broken off."""
    taken: int = 0
    is_cut: bool = False
    """Whether there was more to do."""
    is_late: bool = False
    """Whether the clock broke it off."""
    _costs: list[float] = field(default_factory=list)

    @classmethod
    def on(cls, bench: Bench, seconds: float, most: float = math.inf, *, share: float = SHARE) -> Pace:
        """The pace of work that is to fit the budget too."""
        return cls(seconds, most, time.monotonic() + min(ABSURD * seconds, share * bench.remaining()))

    def through(self, pieces: Iterable[T]) -> Iterator[T]:
        """The pieces that fit, at least one. What the user of the iterator does with one is part of its cost."""
        before = time.thread_time()
        for piece in pieces:
            self.is_late = self.taken > 0 and time.monotonic() > self.deadline
            self.is_cut = self.is_late or self.taken >= self.most
            if self.is_cut:
                return
            self.taken += 1
            yield piece
            now = time.thread_time()
            self._note(now - before)
            before = now

    def _note(self, cost: float) -> None:
        if len(self._costs) >= MEASURED or math.isinf(self.seconds):
            return
        self._costs.append(cost)
        if len(self._costs) == MEASURED:
            fits = self.seconds / max(min(self._costs), 1e-9)
            self.most = min(self.most, 2 ** math.floor(math.log2(max(fits, MEASURED))))

    def require_in_time(self) -> None:
        """Raises Skip once the clock has broken the work off."""
        if self.is_late:
            raise Skip("it takes too long")
