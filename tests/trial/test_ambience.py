from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from stabcheck.trial.ambience import Ambience


def test_everything_is_put_back(tmp_path: Path) -> None:
    before = Ambience.now()
    torch.set_grad_enabled(False)
    torch.autograd.set_detect_anomaly(True)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not before.benchmark
    torch.set_num_threads(2)
    os.chdir(tmp_path)
    sys.stdout = None  # type: ignore[assignment]
    changed = Ambience.now()

    before.restore()

    names = list(vars(before))
    assert [name for name in names if getattr(changed, name) == getattr(before, name)] == []
    assert Ambience.now() == before
    assert torch.zeros(1).device.type == "cpu"


def test_a_default_device_that_was_there_is_kept() -> None:
    torch.set_default_device("meta")
    try:
        wanted = Ambience.now()
        torch.set_default_device(None)
        wanted.restore()
        assert torch.zeros(1).device.type == "meta"
    finally:
        torch.set_default_device(None)
