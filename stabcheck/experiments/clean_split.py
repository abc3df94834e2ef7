"""Validation samples that training holds too: the same rows, copies, near-copies, interlocking windows, shared groups.

## What it looks at
The samples behind both loaders, read one by one from their datasets, without the loaders' workers and before
batching: whether both loaders draw the same rows of one dataset, equal samples, equal inputs with different labels,
windows of one series that interlock, near-copies (noise, rescaling, mirroring, other case or spacing), and the keys that
`sample_key` and `group_key` give. What coincides by chance, as in data of few values, is told from copies: by how often
training samples coincide with each other, and by whether samples that coincide do so in part as well.

## Why it matters
A model remembers what it was trained on. Where validation holds the same samples, their score measures memory: it
looks better than it is, early stopping comes too late, and the model that is chosen is the one that remembers most.

## What to do
Remove repetitions first and split then, by the unit that must be new at test time: the patient, the speaker, the
scene, the document, the stretch of time. Make augmented, oversampled and windowed copies after the split, within each side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Severity, Skip, Source, experiment

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.split.sides import Split

READING_SECONDS = 20.0
READING_SHARE = 0.3
"""Time for reading both sides: this share of what is left of the budget, at most READING_SECONDS."""

MATERIAL = 0.005
"""Share of shared rows from which on it fails; below, a leak moves no score."""

FEWEST = 20
"""Samples read of a side that has more, below which nothing can be said."""

SEARCHED = 0.9
"""Share of the training samples that the search for near-copies covers, below which it is said."""

SATURATED = 0.5
"""Share of training samples that equal another one from which on a leak of a fifth can go unseen, and is said so."""

INTERLOCKED = 0.2
"""Share of validation windows that begin, and share that end, within a training window. After a split in time or by series
none ends within one; after a random split of half-overlapping windows 0.85 do."""

TORN = 0.02
"""Share of the training samples with a second label from which on it is worth a look."""

WINDOWS_COMPARED = 20
"""Windows below which their share is no share."""

SHARED_ROWS = Rule(
    "SC0301",
    "shared-rows",
    "fail",
    message="Both loaders draw the same rows of one {dataset}: {count:,} of {of:,} validation rows ({share:.1%}) are "
    "training rows.",
    fix="Give the loaders index sets without a common element, for example two parts of one torch.utils.data.random_split.",
)
DUPLICATES = Rule(
    "SC0302",
    "duplicate-samples",
    "fail",
    message="{count:,} of {of:,} validation samples ({share:.1%}) are equal to a training sample; {comparison}. "
    "For example validation [{example[1]}] = training [{example[0]}].",
    fix="Remove repetitions before splitting; oversample and augment only the training side, after the split.",
)
WINDOWS = Rule(
    "SC0303",
    "interlocked-windows",
    "fail",
    message="{count:,} of {of:,} validation windows ({share:.0%}) end within a training window, and {begin:.0%} begin within "
    "one: validation [{example[1]}] and training [{example[0]}] are {example[2]} steps apart.",
    fix="Cut the series into a training and a validation stretch, a window's length apart, and cut windows within each.",
)
NEAR_DUPLICATES = Rule(
    "SC0304",
    "near-duplicate-samples",
    "warn",
    message="{count:,} of {of:,} validation samples ({share:.1%}) have a near-copy in training ({how}); of the training "
    "samples {within:.1%} have one. "
    "For example validation [{example[1]}] and training [{example[0]}].",
    fix="Look at these pairs. If they are versions of one original, split by the original, and give its name as 'group_key'.",
)
SHARED_GROUPS = Rule(
    "SC0305",
    "shared-groups",
    "fail",
    message="{groups:,} of {of_groups:,} validation groups are in training too ({named}), with {count:,} of {of:,} "
    "validation samples ({share:.1%}).",
    fix="Draw whole groups for validation, not samples, for example with GroupShuffleSplit of scikit-learn.",
)
SHARED_KEYS = Rule(
    "SC0306",
    "shared-keys",
    "fail",
    message="{count:,} of {of:,} validation samples ({share:.1%}) have the sample_key of a training sample, for example "
    "{named}.",
    fix="Keep each key on one side. If equal keys are meant to be different samples, make sample_key tell them apart.",
)
CONFLICTS = Rule(
    "SC0307",
    "conflicting-labels",
    "warn",
    message="{count:,} of {of:,} training samples ({share:.1%}) have the input of another one and a different label, for "
    "example [{example[0]}] and [{example[1]}].",
    fix="Look at these pairs: labels joined in a wrong order, or annotators who disagree. Settle one label for each input.",
)


@dataclass
class _Judge:
    """The rules in order: what one of them has reported is no news to the next."""

    split: Split
    source: Source | None
    findings: list[Finding] = field(default_factory=list)
    measurements: dict[str, Any] = field(default_factory=dict)
    explained: set[int] = field(default_factory=set)
    """Rows of the validation table that a finding has reported."""

    def __post_init__(self) -> None:
        self.train, self.val = self.split.train, self.split.val
        self.of = len(self.val.table)

    def fresh(self) -> Any:
        """Validation rows that no finding has reported, as an array."""
        import numpy as np

        return np.setdiff1d(np.arange(self.of), np.fromiter(self.explained, int, len(self.explained)))

    def pairs(self, twins: Any, rows: Any) -> list[list[Any]]:
        """Some pairs as the user knows them: [index in training, index in validation]."""
        return [[self.train.name(t), self.val.name(v)] for t, v in list(zip(twins, rows, strict=True))[:5]]

    def report(self, rule: Rule, rows: Any, *, severity: Severity = "fail", **evidence: Any) -> None:
        """Publish a finding about these validation rows."""
        facts = {"count": len(rows), "of": self.of, "share": len(rows) / max(1, self.of), **evidence}
        self.findings.append(rule.at(None, source=self.source, severity=severity, **facts))
        self.explained |= {int(row) for row in rows}

    def shared_rows(self) -> None:
        """SC0301: provable without looking at a sample."""
        import numpy as np

        of = self.val.source.total or 0
        for dataset, positions in self.split.shared:
            if len(positions):
                severity: Severity = "fail" if len(positions) >= MATERIAL * of else "warn"
                self.report(
                    SHARED_ROWS,
                    np.flatnonzero(np.isin(self.val.table.index, positions)),
                    severity=severity,
                    dataset=type(dataset).__name__,
                    count=len(positions),
                    of=of,
                    share=len(positions) / of,
                )

    def shared_keys(self) -> None:
        """SC0306: the user says what identifies a sample."""
        keys, known = self.val.table.keys, set(self.train.table.keys) - {None}
        rows = [row for row in self.fresh().tolist() if keys[row] in known] if keys else []
        if rows:
            names = [repr(keys[row])[:80] for row in rows[:5]]
            self.report(SHARED_KEYS, rows, named=names[0], examples=names)

    def copies(self) -> Callable[[], None]:
        """SC0302. Returned for later unless it is certain: another rule may know the cause."""
        from stabcheck.trial.split.copies import copies

        found = copies(self.split, self.fresh())
        self.measurements |= {
            "equal_share": found.equal,
            "equal_within_training": found.equal_within,
            "copies_share": found.copies,
            "copies_within_training": found.copies_within,
        }
        if found.verdict is None:
            return _nothing
        comparison = f"the repetitions within each side would make it {found.expected:.0f}"
        if found.expected > len(found.rows) / 2:
            comparison = f"in training {found.copies_within:.1%} have a twin too: there were copies before the split"
        pairs = self.pairs(found.twins, found.rows)
        facts: dict[str, Any] = {
            "comparison": comparison,
            "example": pairs[0],
            "pairs": pairs,
            "expected": found.expected,
        }
        severity = found.verdict
        if found.repetitive or severity == "warn":
            return lambda: self.report(DUPLICATES, found.rows, severity=severity, **facts)
        self.report(DUPLICATES, found.rows, severity=severity, **facts)
        return _nothing

    def shared_groups(self) -> None:
        """SC0305: the user says what belongs together."""
        groups, known = self.val.table.groups, set(self.train.table.groups) - {None}
        rows = [row for row in self.fresh().tolist() if groups[row] in known] if groups else []
        if rows:
            shared = list(dict.fromkeys(groups[row] for row in rows))
            named = ", ".join(repr(group)[:40] for group in shared[:5]) + (", ..." if len(shared) > 5 else "")
            of_groups = len(set(groups) - {None})
            self.report(SHARED_GROUPS, rows, groups=len(shared), of_groups=of_groups, named=named)

    def windows(self) -> None:
        """SC0303."""
        from stabcheck.trial.split.windows import overlaps

        fresh = self.fresh()
        found = overlaps(self.split, fresh)
        if found is None:
            return
        self.measurements |= {"windows_beginning_in_training": found.begin, "windows_ending_in_training": found.end}
        enough = len(found.rows) >= WINDOWS_COMPARED and len(fresh) >= self.of / 2
        if enough and min(found.begin, found.end) >= INTERLOCKED:
            pairs = [[self.train.name(t), self.val.name(v), by] for t, v, by in found.pairs]
            self.report(
                WINDOWS,
                found.ending,
                of=len(found.rows),
                share=found.end,
                begin=found.begin,
                example=pairs[0],
                pairs=pairs,
            )
            self.explained |= set(fresh.tolist())
        elif found.sliding:
            # Their neighbours are their own overlaps, so nearness within training is no yardstick.
            self.split.limits.append(("near-copies", "training windows overlap each other"))
            self.explained |= set(range(self.of))
        elif len(found.beginning) or len(found.ending):
            # Windows across the edge of the training part are as near to its last ones as they should be.
            apart = set(found.rows.tolist()) - set(found.beginning.tolist()) - set(found.ending.tolist())
            self.explained |= set(range(self.of)) - apart

    def near_copies(self) -> None:
        """SC0304: the strongest of the views is reported."""
        from stabcheck.trial.split.near import near_copies

        found = near_copies(self.split, self.fresh())
        for near in found:
            self.measurements[f"near_{near.view}"] = {"share": near.share, "within_training": near.within}
            searched, looked_up = near.searched, near.compared
        if found and searched < SEARCHED * len(self.train.table):
            what = f"near-copies beyond {looked_up:,} validation samples among {searched:,} training samples"
            self.split.limits.append((what, "the search takes a random part of large sets"))
        best = max((near for near in found if near.verdict), key=lambda n: (n.verdict == "fail", n.share), default=None)
        if best is None:
            return
        pairs = self.pairs(best.twins, best.rows)
        self.report(
            NEAR_DUPLICATES,
            best.rows,
            severity=best.verdict or "warn",
            of=best.compared,
            share=best.share,
            how=best.how,
            within=best.within,
            example=pairs[0],
            pairs=[[*pair, distance] for pair, distance in zip(pairs, best.distances, strict=False)],
        )

    def conflicts(self) -> None:
        """SC0307."""
        from stabcheck.trial.split.copies import FEW, conflicts

        found, of = conflicts(self.split), len(self.train.table)
        contents = {int(self.train.table.inputs[row]) for row, _ in found}
        if len(contents) >= FEW and len(found) >= TORN * of:
            pairs = [[self.train.name(a), self.train.name(b)] for a, b in found[:5]]
            facts: dict[str, Any] = {"count": len(found), "of": of, "share": len(found) / of}
            self.findings.append(CONFLICTS.at(None, source=self.source, **facts, example=pairs[0], pairs=pairs))


def _nothing() -> None:
    """No report is due."""


@experiment(
    title="Clean validation split",
    rules=(SHARED_ROWS, DUPLICATES, WINDOWS, NEAR_DUPLICATES, SHARED_GROUPS, SHARED_KEYS, CONFLICTS),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802 - it becomes the Check
    """Read both sides and compare them."""
    from stabcheck.trial.split.sides import open_split

    setup = bench.shared().setup
    if setup.val_loader is None:
        raise Skip("no val_loader given: add 'val_loader' to the set-up")
    bench.tell(0.0, "reading samples")
    split = open_split(setup, max(1.0, min(READING_SECONDS, READING_SHARE * bench.remaining())), bench.seed)
    judge = _Judge(split, bench.source((split.val.source.given or split.val.source).dataset))
    judge.shared_rows()
    unread = [side.source.key for side in (split.train, split.val) if side.table.cut_short and len(side.table) < FEWEST]
    empty = [side.source.key for side in (split.train, split.val) if not len(side.table)]
    if not judge.findings and (unread or empty):
        reason = (
            f"too few samples of {' and '.join(unread)} could be read in the time: raise --budget" if unread else ""
        )
        raise Skip(reason or f"{' and '.join(empty)} yields no sample")
    if not empty:
        _compare(bench, judge)
    return _outcome(judge)


def _compare(bench: Bench, judge: _Judge) -> None:
    comparable = bool(judge.split.roles.inputs)
    bench.tell(0.5, "comparing samples")
    judge.shared_keys()
    repetitive = judge.copies() if comparable and len(judge.fresh()) else _nothing
    judge.shared_groups()
    if comparable:
        judge.windows()
        if not {finding.code for finding in judge.findings} & {SHARED_GROUPS.code, WINDOWS.code}:
            repetitive()
        bench.tell(0.7, "searching near-copies")
        judge.near_copies()
        judge.conflicts()


def _outcome(judge: _Judge) -> Outcome:
    split = judge.split
    sizes = {key: len(side.table) for key, side in (("compared_train", split.train), ("compared_val", split.val))}
    totals = {"total_train": split.train.source.total, "total_val": split.val.source.total}
    limits = list(split.limits)
    natural = judge.measurements.get("equal_within_training", 0.0)
    if natural > SATURATED:
        limits.append(
            ("copies among samples that are equal anyway", f"{natural:.0%} of the training samples equal another one")
        )
    if not split.train.table.groups:
        limits.append(("samples of one patient, speaker or scene on both sides", "no 'group_key' given"))
    compared = f"{sizes['compared_train']:,} training and {sizes['compared_val']:,} validation samples compared"
    verdict = judge.findings[0].message if judge.findings else f"{compared}: no more in common than chance gives"
    return Outcome(
        summary=verdict,
        findings=tuple(judge.findings),
        measurements={**sizes, **totals, **judge.measurements},
        not_checked=tuple(NotChecked(what, why) for what, why in limits),
    )
