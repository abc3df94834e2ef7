"""All random number generators together: seeding, saving, restoring."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class RngState:
    """The state of Python's, NumPy's and torch's global generators, on every device in use."""

    python_state: Any
    numpy_state: Any
    torch_state: torch.Tensor
    cuda_states: tuple[torch.Tensor, ...]

    def restore(self) -> None:
        """Put every generator back."""
        random.setstate(self.python_state)
        np.random.set_state(self.numpy_state)
        torch.set_rng_state(self.torch_state)
        if self.cuda_states:
            torch.cuda.set_rng_state_all(list(self.cuda_states))


def rng_state() -> RngState:
    """The present state of all generators."""
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    cuda = tuple(torch.cuda.get_rng_state_all()) if in_use else ()
    return RngState(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def kept_rng(seed: int | None = None) -> Iterator[None]:
    """Leave all generators as they were found; inside, they start from `seed` if one is given."""
    state = rng_state()
    if seed is not None:
        seed_all(seed)
    try:
        yield
    finally:
        state.restore()
