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
    from stabcheck.trial.split import Split

READING_SECONDS = 20.0
READING_SHARE = 0.3
"""Time for reading both sides: this share of what is left of the budget, at most READING_SECONDS."""

MATERIAL = 0.005
"""Share of the validation samples below which a leak moves no score: public test sets hold a few copies in a
thousand (about ten of the 10,000 test images of CIFAR-10 are in its training set), and are used."""

FEW = 3
"""Copies from which on the check fails: one pair in a set is a row that someone entered twice."""

DRIFT = 1 / 3
"""Repetition beyond what each side has within itself counts from this part of it on: where data repeat by nature, the
rate differs that much between, say, two months."""

SURE, LIKELY, UNUSUAL = 1e-4, 0.01, 0.1
"""Error rates: of a comparison of rates alone; of one among samples that chance cannot have made equal; and of the
same where only a warning hangs on it."""

REPETITIVE_WARN, REPETITIVE_FAIL = 0.05, 0.10
"""Shares of the validation samples that are copies where training holds as many of its own: the data repeat themselves.
A tenth of a score being memory is no longer a detail."""

INTERLOCKED = 0.25
"""Share of validation windows that begin, and share that end, within a training window. After a split in time or by series
none ends within one; after a random split of half-overlapping windows 0.85 do, of sparse random ones 0.5."""

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
    message="{count:,} of {of:,} validation samples ({share:.1%}) have a near-copy in training ({how}); {comparison}. "
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
        facts = {"count": len(rows), "of": self.of, "share": len(rows) / self.of, **evidence}
        self.findings.append(rule.at(None, source=self.source, severity=severity, **facts))
        self.explained |= {int(row) for row in rows}

    def shared_rows(self) -> None:
        """SC0301: provable without looking at a sample."""
        for dataset, rows in self.split.shared:
            if len(rows):
                severity: Severity = "fail" if len(rows) >= MATERIAL * self.of else "warn"
                examples = [self.val.name(row) for row in rows[:5]]
                self.report(SHARED_ROWS, rows, severity=severity, dataset=type(dataset).__name__, examples=examples)

    def shared_keys(self) -> None:
        """SC0306: the user says what identifies a sample."""
        keys, known = self.val.table.keys, set(self.train.table.keys) - {None}
        rows = [row for row in self.fresh().tolist() if keys and keys[row] in known]
        if rows:
            names = [repr(keys[row])[:80] for row in rows[:5]]
            self.report(SHARED_KEYS, rows, named=names[0], examples=names)

    def copies(self) -> Callable[[], None] | None:
        """SC0302. Where the data repeat themselves the report is returned for later: another rule may know the cause."""
        from stabcheck.trial.duplicates import rate_p
        from stabcheck.trial.split import copies

        found, compared = copies(self.split, self.fresh()), len(self.train.table)
        whole, alone = found.whole, found.isolated
        natural = max(whole.within, whole.within_val)
        contents = len({int(self.val.table.inputs[row]) for row in alone})
        self.measurements |= {
            "equal_share": whole.share,
            "equal_within_training": whole.within,
            "copies_share": contents / self.of,
            "copies_within_training": found.isolated_within / compared,
        }
        twins = dict(zip(found.inputs.rows.tolist(), found.inputs.twins.tolist(), strict=True))

        def report(rows: Any, comparison: str, severity: Severity) -> None:
            pairs = self.pairs([twins[int(row)] for row in rows], rows)
            facts = {"comparison": comparison, "example": pairs[0], "pairs": pairs, "expected": natural * self.of}
            self.report(DUPLICATES, rows, severity=severity, **facts)

        expected = f"the repetitions within each side would make it {natural * self.of:.0f}"
        leak = min(_beyond(whole.share, natural), _beyond(whole.distinct_share, whole.distinct_within))
        by_rate = rate_p(len(whole.rows), self.of, round(natural * compared), compared)
        if whole.distinct >= FEW and leak >= max(MATERIAL, DRIFT * natural) and by_rate <= SURE:
            report(whole.rows, expected, "fail")
            return None
        by_content = rate_p(contents, self.of, found.isolated_within, compared)
        if contents >= max(2, MATERIAL * self.of) and by_content <= UNUSUAL:
            report(alone, expected, "fail" if contents >= FEW and by_content <= LIKELY else "warn")
            return None
        if contents >= max(FEW, REPETITIVE_WARN * self.of):
            often = f"{found.isolated_within / compared:.1%} of the training samples have an equal one in training"
            severe: Severity = "fail" if contents >= REPETITIVE_FAIL * self.of else "warn"
            return lambda: report(alone, f"{often}, so the split parted copies", severe)
        return None

    def shared_groups(self) -> None:
        """SC0305: the user says what belongs together."""
        groups, known = self.val.table.groups, set(self.train.table.groups) - {None}
        rows = [row for row in self.fresh().tolist() if groups and groups[row] in known]
        if rows:
            shared = list(dict.fromkeys(groups[row] for row in rows))
            named = ", ".join(repr(group)[:40] for group in shared[:5]) + (", ..." if len(shared) > 5 else "")
            of_groups = len(set(groups) - {None})
            self.report(SHARED_GROUPS, rows, groups=len(shared), of_groups=of_groups, named=named)

    def windows(self) -> None:
        """SC0303."""
        from stabcheck.trial.split import overlaps

        fresh = self.fresh()
        found = overlaps(self.split, fresh)
        if found is None or found.compared < WINDOWS_COMPARED:
            return
        self.measurements |= {"windows_beginning_in_training": found.begin, "windows_ending_in_training": found.end}
        if min(found.begin, found.end) >= INTERLOCKED and len(fresh) >= self.of / 2:
            pairs = [[self.train.name(t), self.val.name(v), by] for t, v, by in found.pairs]
            facts = {
                "of": found.compared,
                "share": found.end,
                "begin": found.begin,
                "example": pairs[0],
                "pairs": pairs,
            }
            self.report(WINDOWS, found.ending, **facts)
            self.explained |= set(fresh.tolist())

    def near_copies(self) -> None:
        """SC0304: the strongest of the views is reported."""
        from stabcheck.trial.split import near_copies

        found = near_copies(self.split, self.fresh())
        for near in found:
            self.measurements[f"near_{near.view}"] = {"share": near.share, "within_training": near.within}
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
            comparison=f"of the training samples {best.within:.1%} have one",
            example=pairs[0],
            pairs=[[*pair, distance] for pair, distance in zip(pairs, best.distances, strict=False)],
        )

    def conflicts(self) -> None:
        """SC0307."""
        from stabcheck.trial.split import conflicts

        count, rows = conflicts(self.split)
        of = len(self.train.table)
        if count >= 2 * FEW and count >= MATERIAL * of:
            pairs = [[self.train.name(a), self.train.name(b)] for a, b in rows]
            self.report(
                CONFLICTS, (), severity="warn", count=count, of=of, share=count / of, example=pairs[0], pairs=pairs
            )


def _beyond(share: float, natural: float) -> float:
    """The share of leaked samples that raises `natural` to `share`, leaked ones always being found."""
    return (share - natural) / (1 - natural) if natural < 1 else 0.0


@experiment(
    title="Clean validation split",
    rules=(SHARED_ROWS, DUPLICATES, WINDOWS, NEAR_DUPLICATES, SHARED_GROUPS, SHARED_KEYS, CONFLICTS),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802 - it becomes the Check
    """Read both sides and compare them."""
    from stabcheck.trial.split import open_split

    setup = bench.shared().setup
    if setup.val_loader is None:
        raise Skip("no val_loader given: add 'val_loader' to the set-up")
    bench.tell(0.0, "reading samples")
    split = open_split(setup, max(1.0, min(READING_SECONDS, READING_SHARE * bench.remaining())), bench.seed)
    for side in (split.train, split.val):
        if not len(side.table):
            raise Skip(f"{side.source.key} yields no sample")
    judge = _Judge(split, bench.source(split.val.source.dataset))
    judge.shared_rows()
    judge.shared_keys()
    if split.roles.inputs:
        bench.tell(0.5, "comparing samples")
        repetitive = judge.copies()
        judge.shared_groups()
        judge.windows()
        if repetitive is not None and not {f.code for f in judge.findings} & {SHARED_GROUPS.code, WINDOWS.code}:
            repetitive()
        bench.tell(0.7, "searching near-copies")
        judge.near_copies()
        judge.conflicts()
    else:
        judge.shared_groups()
    return _outcome(judge)


def _outcome(judge: _Judge) -> Outcome:
    split = judge.split
    sizes = {key: len(side.table) for key, side in (("compared_train", split.train), ("compared_val", split.val))}
    totals = {"total_train": split.train.source.total, "total_val": split.val.source.total}
    limits = list(split.limits)
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
