from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stabcheck.loading import EntryPoint
from stabcheck.supervisor import Host
from stabcheck.trial.bench import Bench
from stabcheck.trial.nursery import Nursery

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """Starts workers within milliseconds: torch is imported once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with Host() as host:
            yield host


@pytest.fixture
def make_bench(tmp_path: Path, nursery: Nursery) -> Callable[..., Bench]:
    def make(function: Callable[..., Any], **options: Any) -> Bench:
        options = {"seed": 0, "scratch": tmp_path, "nursery": nursery, **options}
        return Bench(entry=EntryPoint("test", function, {}), **options)

    return make
