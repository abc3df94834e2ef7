"""How the time and memory of clean-split grow with the number of samples. Run by hand: python tests/benchmarks/split_size.py

Prints, for each size, seconds and peak memory, and both as ratios to the size before it (10 would be linear).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10_000, 100_000, 1_000_000)
WIDTH = 32


def measure(size: int) -> dict[str, float]:
    """Run the check once on `size` samples a side, one in a hundred of validation leaked, in this process."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from stabcheck.experiments.clean_split import CHECK
    from stabcheck.loading import EntryPoint
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.nursery import Nursery

    def setup() -> dict[str, object]:
        train, val = torch.randn(size, WIDTH), torch.randn(size, WIDTH)
        val[: size // 100] = train[-(size // 100) :]
        labels = torch.zeros(size, dtype=torch.long)
        loaders = [DataLoader(TensorDataset(x, labels), batch_size=64) for x in (train, val)]
        return {"model": torch.nn.Linear(WIDTH, 2), "train_loader": loaders[0], "val_loader": loaders[1]}

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(entry=EntryPoint("benchmark", setup, {}), seed=0, scratch=Path(folder), nursery=Nursery())
        bench.shared()
        started = time.perf_counter()
        outcome = CHECK.run(bench)
        seconds = time.perf_counter() - started
        bench.nursery.close()
    assert outcome.findings[0].evidence["count"] == size // 100, outcome.summary
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Measure each size in a process of its own and print the table."""
    before: dict[str, float] | None = None
    print(f"{'samples a side':>16} {'seconds':>9} {'ratio':>6} {'MB':>7} {'ratio':>6}")
    for size in SIZES:
        found = json.loads(subprocess.check_output([sys.executable, __file__, str(size)], text=True))
        ratios = [f"{found[key] / before[key]:.1f}" if before else "" for key in ("seconds", "megabytes")]
        print(f"{size:>16,} {found['seconds']:>9.2f} {ratios[0]:>6} {found['megabytes']:>7.0f} {ratios[1]:>6}")
        before = found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
