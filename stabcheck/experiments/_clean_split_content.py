"""The part of clean-split that judges samples by their content: copies, windows of one series, near-copies, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Rule, Severity, Source

if TYPE_CHECKING:
    from stabcheck.trial.split.sides import Split
    from stabcheck.trial.split.windows import Overlap

INTERLOCKED = 0.2
"""Share of validation windows that begin, and share that end, within a training window, below which little is shared.
After a split in time or by series none ends within one."""

AS_AMONG_THEMSELVES = 1.5
"""Windows of one series that are split at random meet training windows as often as training windows meet each other: the
ratio was 0.8 to 1.4 for strides from one step to half a window and for random starts, on source code, prose, licences, logs,
tables, genomes and signals. Windows that slide over separate stretches of such text meet 0.1 to 0.55 times as often, blocks
of the source of argparse 4 times. It takes text whose parts were copied from each other at length to come to 0.7 to 0.9:
source files that are edited copies, a signal that repeats itself to the last digit."""

EDGE_TO_EDGE = 0.2
"""Share of `seams` from which on what windows share are passages that recur: 0.26 to 1.0 in blocks that do not overlap, up
to 0.14 in windows that do."""

NEARLY_ALL = 0.9
"""Share of the windows that begin or end within a training one, which recurring passages do not reach (0.5 at most)."""

WINDOWS_COMPARED = 20
"""Windows below which their share is no share."""

SEARCHED = 0.9
"""Share of the training samples that the search for near-copies covers, below which it is said."""

TORN = 0.02
"""Share of the training samples with a second label from which on it is worth a look."""

SHOWN = 4
"""Pairs of each kind whose content goes into the report: some kilobytes each where they are images."""

DUPLICATES = Rule(
    "SC0302",
    "duplicate-samples",
    "fail",
    message="{count:,} of {of:,} validation samples ({share:.1%}) are equal to a training sample{comparison}; "
    "for example validation [{example[1]}] = training [{example[0]}]",
    fix="remove repetitions before splitting; oversample and augment only the training side, after the split",
)
WINDOWS = Rule(
    "SC0303",
    "interlocked-windows",
    "fail",
    message="{count:,} of {of:,} validation windows ({share:.0%}) end within a training window, and {begin:.0%} begin within "
    "one: validation [{example[1]}] and training [{example[0]}] are {example[2]} steps apart",
    fix="cut the series into a training and a validation stretch, a window's length apart, and cut windows within each",
)
NEAR_DUPLICATES = Rule(
    "SC0304",
    "near-duplicate-samples",
    "warn",
    message="{count:,} of {of:,} validation samples ({share:.1%}) have a near-copy in training ({how}); of the training "
    "samples {within:.1%} have one; "
    "for example validation [{example[1]}] and training [{example[0]}]",
    fix="look at these pairs; if they are versions of one original, split by the original, and give its name as 'group_key'",
)
CONFLICTS = Rule(
    "SC0307",
    "conflicting-labels",
    "warn",
    message="{count:,} of {of:,} training samples ({share:.1%}) have the input of another one and a different label, for "
    "example [{example[0]}] and [{example[1]}]",
    fix="look at these pairs: labels joined in a wrong order, or annotators who disagree; settle one label for each input",
    why="Of equal samples with different labels only some can be right, whatever the model says: no score can rise above that.",
)


@dataclass
class Case:
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

    def show(self, rule: Rule, twins: Any, rows: Any) -> None:
        """Keep the first few pairs as they look, for a picture."""
        from stabcheck.trial.split.looks import look

        train, val = self.split.largest() or (None, None)
        shown = [
            {
                "code": rule.code,
                "train": {"index": self.train.name(twin), "looks": look(self.train, train, int(twin))},
                "val": {"index": self.val.name(row), "looks": look(self.val, val, int(row))},
            }
            for twin, row in list(zip(twins, rows, strict=True))[:SHOWN]
        ]
        self.measurements["pairs"] = [*self.measurements.get("pairs", []), *shown]

    def report(self, rule: Rule, rows: Any, *, severity: Severity = "fail", **evidence: Any) -> None:
        """Publish a finding about these validation rows."""
        facts = {"count": len(rows), "of": self.of, "share": len(rows) / max(1, self.of), **evidence}
        self.findings.append(rule.at(None, source=self.source, severity=severity, **facts))
        self.explained |= {int(row) for row in rows}


def duplicates(case: Case) -> Callable[[], None]:
    """SC0302. Returned for later unless it is certain: another rule may know the cause."""
    from stabcheck.trial.split.copies import copies

    found = copies(case.split, case.fresh())
    case.measurements |= {
        "equal_share": found.equal,
        "equal_within_training": found.equal_within,
        "copies_share": found.copies,
        "copies_within_training": found.copies_within,
    }
    if found.verdict is None:
        return nothing
    expected = None if found.by_content else found.expected
    equal = round(found.equal * case.of)
    if found.by_content:
        comparison = ", and not by chance"
        if equal > len(found.rows):
            comparison += f" ({equal:,} are equal to one, the others may well be so by chance)"
        if found.copies_within:
            comparison += (
                f"; in training {found.copies_within:.1%} have such a twin too: the copies are from before the split"
            )
    else:
        comparison = f", where chance explains {found.expected:.0f}, going by how often samples repeat within each side"
    pairs = case.pairs(found.twins, found.rows)
    facts: dict[str, Any] = {
        "comparison": comparison,
        "example": pairs[0],
        "pairs": pairs,
        "expected": expected,
    }
    severity = found.verdict

    def tell() -> None:
        case.show(DUPLICATES, found.twins, found.rows)
        case.report(DUPLICATES, found.rows, severity=severity, **facts)

    if found.repetitive or severity == "warn":
        return tell
    tell()
    return nothing


def interlocked(case: Case) -> None:
    """SC0303."""
    from stabcheck.trial.split.windows import overlaps

    fresh = case.fresh()
    found = overlaps(case.split, fresh)
    if found is None:
        return
    case.measurements |= {
        "windows_beginning_in_training": found.begin,
        "windows_ending_in_training": found.end,
        "training_windows_in_training": found.within,
    }
    enough = len(found.rows) >= WINDOWS_COMPARED and len(fresh) >= case.of / 2
    if enough and _one_cut(found):
        pairs = [[case.train.name(t), case.val.name(v), by] for t, v, by in found.pairs]
        case.report(
            WINDOWS,
            found.ending,
            of=len(found.rows),
            share=found.end,
            begin=found.begin,
            example=pairs[0],
            pairs=pairs,
        )
        case.explained |= set(fresh.tolist())
    elif found.sliding:
        # Their neighbours are their own overlaps, so nearness within training is no yardstick.
        case.split.limits.append(("near-copies", "training windows overlap each other"))
        case.explained |= set(range(case.of))
    elif len(found.beginning) or len(found.ending):
        # Windows across the edge of the training part are as near to its last ones as they should be.
        apart = set(found.rows.tolist()) - set(found.beginning.tolist()) - set(found.ending.tolist())
        case.explained |= set(range(case.of)) - apart


def _one_cut(found: Overlap) -> bool:
    """Whether the windows of both sides were cut from the same stretches, and do not just hold the same passages."""
    if min(found.begin, found.end) < INTERLOCKED:
        return False
    share = (found.begin + found.end) / 2
    exchangeable = found.within / AS_AMONG_THEMSELVES <= share <= found.within * AS_AMONG_THEMSELVES
    return found.either >= NEARLY_ALL or (exchangeable and found.seams < EDGE_TO_EDGE)


def near_duplicates(case: Case) -> None:
    """SC0304: the strongest of the views is reported."""
    from stabcheck.trial.split.near import near_copies

    found = near_copies(case.split, case.fresh())
    for near in found:
        case.measurements[f"near_{near.view}"] = {"share": near.share, "within_training": near.within}
        searched, looked_up = near.searched, near.compared
    if found and searched < SEARCHED * len(case.train.table):
        what = f"near-copies beyond {looked_up:,} validation samples among {searched:,} training samples"
        case.split.limits.append((what, "the search takes a random part of large sets"))
    best = max((near for near in found if near.verdict), key=lambda n: (n.verdict == "fail", n.share), default=None)
    if best is None:
        return
    pairs = case.pairs(best.twins, best.rows)
    case.show(NEAR_DUPLICATES, best.twins, best.rows)
    case.report(
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


def conflicting(case: Case) -> None:
    """SC0307."""
    from stabcheck.trial.split.copies import FEW, conflicts

    found, of = conflicts(case.split), len(case.train.table)
    contents = {int(case.train.table.inputs[row]) for row, _ in found}
    if len(contents) >= FEW and len(found) >= TORN * of:
        pairs = [[case.train.name(a), case.train.name(b)] for a, b in found[:5]]
        facts: dict[str, Any] = {"count": len(found), "of": of, "share": len(found) / of}
        case.findings.append(CONFLICTS.at(None, source=case.source, **facts, example=pairs[0], pairs=pairs))


def nothing() -> None:
    """No report is due."""
