"""Validation samples that training holds too: the same rows, copies, near-copies, interlocking windows, shared groups.

## What it looks at
The samples behind both loaders, read one by one from their datasets, without the loaders' workers and before
batching: whether both loaders draw the same rows of one dataset, equal samples, equal inputs with different labels,
windows of one series that interlock, near-copies (noise, rescaling, mirroring, other case or spacing), the same values in
another order (turned or shifted), rows equal but for a column or two or on a line between two others (SMOTE), and the keys
that `sample_key` and `group_key` give. What coincides by chance, as in data of few values, is told from copies: by how often
training samples coincide with each other, and by whether samples that coincide do so in part as well.

## Why it matters
A model remembers what it was trained on. Where validation holds the same samples, their score measures memory: it
looks better than it is, early stopping comes too late, and the model that is chosen is the one that remembers most.

## What to do
Remove repetitions first and split then, by the unit that must be new at test time: the patient, the speaker, the
scene, the document, the stretch of time. Make augmented, oversampled and windowed copies after the split, within each side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.check import NotChecked, Outcome, Rule, Severity, Skip, experiment
from stabcheck.experiments._clean_split_content import (
    CONFLICTS,
    DUPLICATES,
    NEAR_DUPLICATES,
    WINDOWS,
    Case,
    conflicting,
    duplicates,
    interlocked,
    near_duplicates,
    nothing,
)

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.split.one_graph import Chosen

READING_SECONDS = 20.0
"""Most time for reading both sides."""
READING_SHARE = 0.3
"""Share of what is left of the budget that reading both sides may take."""

MATERIAL = 0.005
"""Share of shared rows from which on it fails; below, a leak moves no score."""

FEWEST = 20
"""Samples read of a side that has more, below which nothing can be said."""

SATURATED = 0.5
"""Share of training samples that equal another one from which on a leak of a fifth can go unseen, and is said so."""

SHARED_ROWS = Rule(
    "SC0301",
    "shared-rows",
    "fail",
    message="both loaders draw the same rows of one {dataset}: {count:,} of {of:,} validation rows ({share:.1%}) are "
    "training rows",
    fix="give the loaders index sets without a common element, for example two parts of one torch.utils.data.random_split",
)
SHARED_GROUPS = Rule(
    "SC0305",
    "shared-groups",
    "fail",
    message="{groups:,} of {of_groups:,} validation groups are in training too ({named}), with {count:,} of {of:,} "
    "validation samples ({share:.1%})",
    fix="draw whole groups for validation, not samples, for example with GroupShuffleSplit of scikit-learn",
)
SHARED_KEYS = Rule(
    "SC0306",
    "shared-keys",
    "fail",
    message="{count:,} of {of:,} validation samples ({share:.1%}) have the sample_key of a training sample, for example "
    "{named}",
    fix="keep each key on one side; if equal keys are meant to be different samples, make sample_key tell them apart",
)


def shared_rows(case: Case) -> None:
    """SC0301: provable without looking at a sample."""
    import numpy as np

    of = case.val.source.total or 0
    for dataset, positions in case.split.shared:
        if len(positions):
            severity: Severity = "fail" if len(positions) >= MATERIAL * of else "warn"
            case.report(
                SHARED_ROWS,
                np.flatnonzero(np.isin(case.val.table.index, positions)),
                severity=severity,
                dataset=type(dataset).__name__,
                count=len(positions),
                of=of,
                share=len(positions) / of,
            )


def shared_keys(case: Case) -> None:
    """SC0306: the user says what identifies a sample."""
    keys, known = case.val.table.keys, set(case.train.table.keys) - {None}
    rows = [row for row in case.fresh().tolist() if keys[row] in known] if keys else []
    if rows:
        names = [repr(keys[row])[:80] for row in rows[:5]]
        case.report(SHARED_KEYS, rows, named=names[0], examples=names)


def shared_groups(case: Case) -> None:
    """SC0305: the user says what belongs together."""
    groups, known = case.val.table.groups, set(case.train.table.groups) - {None}
    rows = [row for row in case.fresh().tolist() if groups[row] in known] if groups else []
    if rows:
        shared = list(dict.fromkeys(groups[row] for row in rows))
        named = ", ".join(repr(group)[:40] for group in shared[:5]) + (", ..." if len(shared) > 5 else "")
        of_groups = len(set(groups) - {None})
        case.report(SHARED_GROUPS, rows, groups=len(shared), of_groups=of_groups, named=named)


@experiment(
    title="Clean validation split",
    about=("val_loader",),
    rules=(SHARED_ROWS, DUPLICATES, WINDOWS, NEAR_DUPLICATES, SHARED_GROUPS, SHARED_KEYS, CONFLICTS),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802 - it becomes the Check
    """Read both sides and compare them."""
    from stabcheck.trial.split.one_graph import chosen
    from stabcheck.trial.split.sides import open_split

    setup = bench.shared().setup
    if setup.val_loader is None:
        raise Skip("no val_loader given: add 'val_loader' to the set-up")
    bench.tell(0.0, "reading samples")
    if (one_graph := chosen(bench.shared())) is not None:
        return _of_one_graph(bench, one_graph)
    split = open_split(setup, max(1.0, min(READING_SECONDS, READING_SHARE * bench.remaining())), bench.seed)
    case = Case(split, bench.source((split.val.source.given or split.val.source).dataset))
    shared_rows(case)
    sides = (split.train, split.val)
    empty = [side.source.key for side in sides if not len(side.table)]
    unread = [side.source.key for side in sides if side.table.cut_short and len(side.table) < FEWEST]
    if unread and not case.findings:
        raise Skip(f"too few samples of {' and '.join(unread)} could be read in the time: raise --budget")
    if empty and not case.findings:
        raise Skip(f"{' and '.join(empty)} yields no sample")
    if not empty:
        _compare(bench, case)
    return _outcome(case)


def _of_one_graph(bench: Bench, chosen: Chosen) -> Outcome:
    """Both loaders give the same data by design: what counts is which rows each side is judged on."""
    train, val, shared = len(chosen.train), len(chosen.val), chosen.shared
    said = f"one set of data for both sides; {chosen.name!r} chooses {train:,} rows for training and {val:,} for validation"
    measured = {"train": train, "val": val, "shared": shared}
    if not shared:
        return Outcome(f"{said}, none of them the same", measurements=measured)
    finding = SHARED_ROWS.at(
        None,
        source=bench.source(bench.entry.function),
        severity="fail" if shared >= MATERIAL * val else "warn",
        dataset="set of data",
        count=shared,
        of=val,
        share=shared / val,
    )
    return Outcome(f"{said}, {shared:,} of them the same", (finding,), measured)


def _compare(bench: Bench, case: Case) -> None:
    comparable = bool(case.split.roles.inputs)
    bench.tell(0.5, "comparing samples")
    shared_keys(case)
    repetitive = duplicates(case) if comparable and len(case.fresh()) else nothing
    shared_groups(case)
    if comparable:
        interlocked(case)
        if not {finding.code for finding in case.findings} & {SHARED_GROUPS.code, WINDOWS.code}:
            repetitive()
        bench.tell(0.7, "searching near-copies")
        near_duplicates(case)
        conflicting(case)


def _outcome(case: Case) -> Outcome:
    split = case.split
    sizes = {key: len(side.table) for key, side in (("compared_train", split.train), ("compared_val", split.val))}
    totals = {"total_train": split.train.source.total, "total_val": split.val.source.total}
    limits = list(split.limits)
    natural = case.measurements.get("equal_within_training", 0.0)
    if natural > SATURATED:
        limits.append(
            ("copies among samples that are equal anyway", f"{natural:.0%} of the training samples equal another one")
        )
    if not split.train.table.groups:
        limits.append(("samples of one patient, speaker or scene on both sides", "no 'group_key' given"))
    compared = f"{sizes['compared_train']:,} training and {sizes['compared_val']:,} validation samples compared"
    verdict = case.findings[0].message if case.findings else f"{compared}: no more in common than chance gives"
    return Outcome(
        summary=verdict,
        findings=tuple(case.findings),
        measurements={**sizes, **totals, **case.measurements},
        not_checked=tuple(NotChecked(what, why) for what, why in limits),
    )
