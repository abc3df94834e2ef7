"""What user code can leave changed in the whole process: every check starts from what it was after loading."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ambience:
    """torch's global switches, the current directory and the standard streams at one moment."""

    grad_enabled: bool
    anomaly: tuple[bool, bool]
    dtype: torch.dtype
    device: torch.device
    deterministic: tuple[bool, bool]
    benchmark: bool
    threads: int
    folder: str
    streams: tuple[Any, Any, Any]

    @classmethod
    def now(cls) -> Ambience:
        """The present state."""
        return cls(
            torch.is_grad_enabled(),
            (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            torch.get_default_dtype(),
            torch.get_default_device(),
            (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
            torch.backends.cudnn.benchmark,
            torch.get_num_threads(),
            os.getcwd(),
            (sys.stdin, sys.stdout, sys.stderr),
        )

    def restore(self) -> None:
        """Put everything back."""
        torch.set_grad_enabled(self.grad_enabled)
        torch.set_anomaly_enabled(*self.anomaly)
        torch.set_default_dtype(self.dtype)
        if torch.get_default_device() != self.device:
            # None takes the mode away that a device installs, and leaves the CPU.
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        torch.use_deterministic_algorithms(self.deterministic[0], warn_only=self.deterministic[1])
        torch.backends.cudnn.benchmark = self.benchmark
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with contextlib.suppress(OSError):  # the directory may be gone
            os.chdir(self.folder)
        sys.stdin, sys.stdout, sys.stderr = self.streams
