"""Rules of data-health about what comes with a sample: its own label, and its own parts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule
from stabcheck.reading import batch_part

if TYPE_CHECKING:
    from stabcheck.experiments.data_health import Data

UNPAIRED = Rule(
    "SC1705",
    "labels-change-between-passes",
    "fail",
    message="an input has another label each time it comes: of {met:,} inputs that came again in a second pass over "
    "train_loader, {agreeing:.0%} kept their label, no more than by chance ({by_chance:.0%})",
    fix="look for a permutation that is applied to the inputs or to the labels alone: in collate_fn (mixup without "
    "mixing the labels), in the dataset, or in a sampler for one of two lists",
)
TORN = Rule(
    "SC1724",
    "batch-parts-out-of-order",
    "fail",
    message="collate_fn puts parts of different samples into one row: in {rows} of the {of} rows of a batch {one} is of one sample "
    "and {other} of another",
    fix="whatever is sorted, filtered or shuffled in collate_fn, do it to the whole samples before they are taken apart, or to all "
    "of their parts with one index",
    why="Inputs that belong to other labels are noise, and no error says so.",
)
RULES = (UNPAIRED, TORN)


def torn(data: Data) -> Iterator[Finding]:
    """SC1724."""
    from stabcheck.trial.data.collation import torn_pairs
    from stabcheck.userland import UserCodeError

    try:
        found = torn_pairs(data.session, data.bench.seed)
    except UserCodeError:  # a dataset that the loader's workers alone can read
        return
    if found is not None:
        source = data.bench.source(found.function)
        one, other = batch_part(found.one), batch_part(found.other)
        yield TORN.at(None, source=source, rows=found.rows, of=found.of, one=one, other=other)


def paired(data: Data) -> Iterator[Finding]:
    """SC1705."""
    from stabcheck.trial.data.label_consistency import pairing
    from stabcheck.trial.pace import Pace

    pace = Pace.on(data.bench, math.inf, len(data.train.sizes))
    found = pairing(data.session, data.train, pace, data.bench.seed)
    if pace.is_late:
        data.unchecked("whether all inputs keep their labels in a second pass", "reading it again takes too long")
    if found is None:
        return
    data.measurements["labels_kept"] = {"met": found.met, "agreeing": found.agreeing}
    if found.is_broken and found.certain:
        yield UNPAIRED.at(
            None,
            source=data.source("train_loader"),
            met=found.met,
            agreeing=found.agreeing,
            by_chance=found.by_chance,
        )
