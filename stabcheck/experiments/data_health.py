"""Data that spoils training: NaN, values out of range, unshuffled or mislabelled samples, bad scaling, preprocessing mismatch.

## What it looks at
One pass over each loader, as far as a few seconds reach: NaN and infinite values that get through to the loss, the batches with
the largest and smallest ids and labels, the last batch, targets that are all alike, columns that never change,
sequences that are copies, codes for missing values, the target among the inputs. Whether an input keeps its label in a second
pass, whether collate_fn keeps the parts of each sample together, whether labels of either side have to do with its inputs (by
nearest neighbours) and mean the same in both, whether the
dataset repeats its random augmentation. What only looks odd is tried out: a few dozen steps on the same batches shuffled, or
with inputs or targets standardised, and the validation loss with validation inputs brought to the scale of training. A set-up
that copes is left alone.

## Why it matters
Nothing crashes. A model trains on labels of other samples, forgets each class while it sees the next, is validated on pixels
255 times as large, or dies in the last batch of the first night.

## What to do
Look at one batch of each loader right before the model: shapes, ranges, labels beside their inputs. Fit scaling on the training
part and use it on both. Shuffle. Clean missing values where they enter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Skip, Source, experiment
from stabcheck.experiments import _data_health_pairing, _data_health_sides, _data_health_training, _data_health_values

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.data.scan import Scan
    from stabcheck.trial.session import Session

SCAN_SECONDS, SCAN_SHARE = 2.0, 0.05
"""Time for one pass over a loader, and the share of the budget after which it ends: a loader may mostly wait."""


@dataclass
class Data:
    """What the rules look at, and where they leave what they learnt."""

    bench: Bench
    session: Session
    scans: list[Scan]
    measurements: dict[str, Any] = field(default_factory=dict)
    not_checked: list[NotChecked] = field(default_factory=list)

    @property
    def train(self) -> Scan:
        """The pass over train_loader."""
        return self.scans[0]

    @property
    def val(self) -> Scan | None:
        """The pass over val_loader, if there is one and it gave a batch."""
        return self.scans[1] if len(self.scans) > 1 else None

    def source(self, key: str) -> Source | None:
        """Where the user wrote the dataset behind a loader, or built the loader."""
        return self.bench.places.get(key)

    def unchecked(self, what: str, why: str) -> None:
        """Say that something was not looked at."""
        if not any(item.what == what for item in self.not_checked):
            self.not_checked.append(NotChecked(what, why))


def sides(data: Data) -> Iterator[Finding]:
    """The rules that need both loaders."""
    if data.val is None:
        data.unchecked(
            "whether validation data is prepared as training data is", "no val_loader given: add 'val_loader'"
        )
        return
    yield from _data_health_sides.labels(data, data.val)
    yield from _data_health_sides.preparation(data, data.val)


STAGES: tuple[tuple[Callable[[Data], Iterator[Finding]], ...], ...] = (
    (_data_health_values.unusable,),
    (_data_health_pairing.torn,),
    (
        _data_health_values.empty,
        _data_health_values.redundant,
        _data_health_training.repeated,
        _data_health_training.imbalanced,
    ),
    (_data_health_pairing.paired,),
    (sides,),
    (_data_health_training.ordered,),
    (_data_health_training.scaled,),
)
"""In order of certainty; what a stage fails with is mended before the next has anything to say."""


@experiment(
    title="Data health",
    about=("train_loader",),
    rules=tuple(
        sorted(
            (
                *_data_health_values.RULES,
                *_data_health_pairing.RULES,
                *_data_health_training.RULES,
                *_data_health_sides.RULES,
            ),
            key=lambda rule: rule.code,
        )
    ),
    cost="dear",
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Read both loaders, then try out what looks odd."""
    from stabcheck.trial.data.scan import scan
    from stabcheck.trial.pace import Pace

    session = bench.session()
    keys = ["train_loader"] + ["val_loader"] * (session.setup.val_loader is not None)
    bench.tell(0.1, "reading the loaders")
    scans = [scan(session, key, Pace.on(bench, SCAN_SECONDS, share=SCAN_SHARE), bench.seed) for key in keys]
    if not scans[0].batches:
        raise Skip("train_loader yields no batch")
    data = Data(bench, session, [s for s in scans if s.batches])
    findings: list[Finding] = []
    for stage in STAGES:
        for rules in stage:
            findings += rules(data)
        if any(finding.severity == "fail" for finding in findings):
            break
    return _outcome(data, findings)


def _outcome(data: Data, findings: list[Finding]) -> Outcome:
    read = {s.key: {"samples": s.samples, "batches": len(s.sizes), "whole_pass": s.whole} for s in data.scans}
    for s in data.scans:
        if not s.whole:
            beyond = f"{s.key} beyond its first {s.samples:,} samples"
            data.unchecked(beyond, f"reading all of it takes more than the {SCAN_SECONDS:g} s that are given to it")
        if s.bad and not any(finding.code == _data_health_values.NON_FINITE.code for finding in findings):
            data.measurements[f"non_finite_in_{s.key}"] = s.bad
    looked = " and ".join(f"{s.samples:,} samples of {s.key}" for s in data.scans)
    return Outcome(
        summary=findings[0].message if findings else f"{looked} read: nothing that spoils training",
        findings=tuple(findings),
        measurements={"read": read, **data.measurements},
        not_checked=tuple(data.not_checked),
    )
