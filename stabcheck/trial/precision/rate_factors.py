"""The planned rates as shares of their peak."""

from __future__ import annotations

import numpy as np

from stabcheck.check import Skip
from stabcheck.trial.bench import Bench
from stabcheck.trial.schedule.planned_run import plan_the_run


def planned_factors(bench: Bench, points: int) -> tuple[list[float], float]:
    """(rates at `points` places evenly spread over the run, as shares of the peak; the peak), of the group with the
    highest rate. Without a schedule all are 1.

    Raises:
        Skip: there is no rate to read.
        UserCodeError: the set-up, the loader or the user's step raised.
    """
    peak = max(bench.peak_rates(), default=0.0)
    if not peak > 0:
        raise Skip("no learning rate is known: add 'optimizer' to the set-up")
    if bench.shared().setup.scheduler is None:
        return [1.0] * points, peak
    rates = plan_the_run(bench).used
    column = rates[:, int(rates.max(axis=0).argmax())]
    rows = np.linspace(0, len(column) - 1, points).round().astype(int)
    return [float(rate) / peak for rate in column[rows]], peak
