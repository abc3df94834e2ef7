"""The part of batch-independence that judges what gets from one batch into the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench

CARRIED = Rule(
    "SC1808",
    "state-carried-between-batches",
    "fail",
    "the model keeps {attribute} from one call to the next, so what it returns for a sample depends on the sample that stood in "
    "the same row of the batch before, and train_loader shuffles: the two have nothing to do with each other",
    "start {attribute} anew at each batch; or, if each row is to go on where it ended in the batch before, cut the data into such "
    "rows and do not shuffle",
    why="Each output depends on samples that happened to come before, in validation on other ones than in use.",
)


def of_state(bench: Bench) -> Finding | None:
    """SC1808."""
    from stabcheck.trial.dependence.carried import carried

    found = carried(bench)
    if found is None:
        return None
    name = f"{found.module}.{found.attribute}" if found.module else found.attribute
    return CARRIED.at(found.module or None, source=bench.source(bench.shared().model), attribute=name)
