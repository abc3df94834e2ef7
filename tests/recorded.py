"""Benches that know their trial, for experiments that read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stabcheck.trial.bench import Bench
from stabcheck.trial.recorder import record_trial

STEPS = 40


def recorded(make_bench: Callable[..., Bench], setup: Callable[[], Any], **options: Any) -> Bench:
    bench = make_bench(setup, **options)
    bench.recording = record_trial(bench, steps=STEPS)
    return bench
