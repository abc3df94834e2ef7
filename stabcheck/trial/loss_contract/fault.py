"""A fault of the loss, before it becomes a finding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from stabcheck.check import Severity, Source


@dataclass(frozen=True)
class Fault:
    """A broken rule, by name, and what its sentence is made from."""

    rule: str
    place: Source | None
    facts: dict[str, Any] = field(default_factory=dict)
    severity: Severity | None = None
    location: str | None = None
    """The module that is to blame."""


def shape(tensor: torch.Tensor) -> str:
    """A shape as a sentence has it."""
    return str(tuple(tensor.shape))
