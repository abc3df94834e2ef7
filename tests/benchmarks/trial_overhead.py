"""What observing costs: the trial's steps against the same steps bare, interleaved in one process.

    python -m tests.benchmarks.trial_overhead

Prints for each model the median step time bare and observed (milliseconds) and the ratio of the whole 40 steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.loading import EntryPoint
from stabcheck.trial.bench import Bench
from stabcheck.trial.nursery import Nursery
from stabcheck.trial.recorder import _Trial

STEPS, ROUNDS = 40, 3


class Transformer(nn.Module):
    """Four pre-norm blocks of width 256 on 64 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 256)
        layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.1, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(256, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(tokens))).transpose(1, 2)


def mlp() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return _setup(model, [(torch.randn(64, 64), torch.randint(10, (64,))) for _ in range(8)])


def transformer() -> dict[str, Any]:
    return _setup(Transformer(), [(x := torch.randint(256, (8, 64)), x) for _ in range(8)])


def _setup(model: nn.Module, batches: list[Any]) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {"model": model, "train_loader": batches, "loss_fn": F.cross_entropy, "optimizer": optimizer}


def bare(bench: Bench) -> float:
    session = bench.session()
    iterator = session.train_batches()
    started = time.perf_counter()
    for _ in range(STEPS):
        session.step(next(iterator)[1])
    return time.perf_counter() - started


def observed(bench: Bench) -> float:
    trial = _Trial(bench, bench.session(), STEPS)
    taken: list[float] = []
    trial._recording = lambda: taken.append(time.perf_counter())  # type: ignore[assignment,return-value]
    started = time.perf_counter()
    trial.run()
    return taken[0] - started


def main() -> None:
    torch.set_num_threads(1)
    nursery = Nursery()
    for function in (mlp, transformer):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(EntryPoint("benchmark", function, {}), 0, Path(folder), nursery)
            measures: dict[Callable[[Bench], float], list[float]] = {bare: [], observed: []}
            bare(bench)
            for _ in range(ROUNDS):
                for measure in (bare, observed):
                    measures[measure].append(measure(bench))
        plain, seen = (median(measures[m]) for m in (bare, observed))
        times = f"bare {1e3 * plain / STEPS:7.2f} ms  observed {1e3 * seen / STEPS:7.2f} ms"
        print(f"{function.__name__:12} {times}  ratio {seen / plain:.2f}")
    nursery.close()


if __name__ == "__main__":
    main()
