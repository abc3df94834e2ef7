"""What can be wrong with the rates of a run, as plain facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fault:
    """What is wrong with the schedule over the run. `kind` names it; positions are numbers of scheduler calls."""

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
