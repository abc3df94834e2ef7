"""Two reports of the same training, from two commits: what appeared, what went, and which measurements moved.

Findings are the same if they have the same code and location; of several with both alike, as many as there were before
are the same. What a check says nothing about (it was skipped, could not run or was not asked) has not gone: it is no
longer judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stabcheck import setup_facts
from stabcheck.movements import Movement, extent, moved
from stabcheck.report import CheckResult, FindingResult, Report, Status, plain

State = Literal["fails", "warns", "follows", "suppressed"]
"""How a finding counts: by itself, as a consequence of another, or not at all."""

RANK: dict[str | None, int] = {None: 0, "suppressed": 0, "follows": 0, "warns": 1, "fails": 2}
"""How bad a state is, None being no finding at all."""

JUDGED: tuple[Status, ...] = ("pass", "warn", "fail")

BADNESS: dict[Status | None, int] = {None: 0, "skip": 0, "pass": 0, "warn": 1, "fail": 2, "error": 3}
"""How bad a check's status is; a check that gave no verdict is neither better nor worse, and told apart."""

CONDITIONS = ("seed", "steps", "device", "torch", "python", "stabcheck")
"""Facts about a run that bear on its numbers, in the order of how much."""


@dataclass(frozen=True)
class Change:
    """A finding that is not what it was."""

    check: str
    finding: FindingResult
    """As it is now; of one that went, as it was."""
    before: State | None
    after: State | None
    judged: bool = True
    """Whether the other report's check gave a verdict on it: if not, it may have been there, or be there still."""

    @property
    def worse(self) -> bool:
        """Whether it counts for more than before."""
        return RANK[self.after] > RANK[self.before]


@dataclass(frozen=True)
class StatusChange:
    """A check with another status; None where the report does not have the check."""

    check: str
    before: Status | None
    after: Status | None
    why: str
    """The check's own words in the new report, or in the old one where only that has it."""
    explained: bool = False
    """Whether it gives no verdict, now or before, because all that it found follows from another check's finding."""

    @property
    def worse(self) -> bool:
        """Whether it newly warns, fails or cannot run."""
        return BADNESS[self.after] > BADNESS[self.before]

    @property
    def lost(self) -> bool:
        """Whether there was a verdict and is none."""
        return self.before in JUDGED and self.after not in JUDGED


@dataclass(frozen=True)
class Comparison:
    """What is different in the new report."""

    targets: tuple[str, str]
    conditions: tuple[tuple[str, str, str], ...]
    """(fact, old, new) of the environments where they differ and numbers may differ with them."""
    setup: tuple[tuple[str, str, str], ...]
    """(fact, old, new) of the set-ups themselves where they differ."""
    appeared: tuple[Change, ...]
    """Findings that count and did not, or count for more, and what newly follows from others."""
    gone: tuple[Change, ...]
    """Findings that counted and do not, or count for less, and what followed from others and went."""
    suppressed: tuple[Change, ...]
    """Findings that are suppressed now, or were, and came, went or changed in that."""
    statuses: tuple[StatusChange, ...]
    moved: tuple[Movement, ...]
    """Measurements that differ by more than runs of one set-up differ among themselves; the largest movement first."""

    @property
    def worse(self) -> bool:
        """Whether something appeared that counts, or a check newly warns, fails or cannot run. Movements alone are none of
        it: they are there to be looked at."""
        return any(change.worse for change in self.appeared) or any(status.worse for status in self.statuses)

    @property
    def same(self) -> bool:
        """Whether nothing at all is to be told."""
        return not (self.setup or self.appeared or self.gone or self.suppressed or self.statuses or self.moved)

    @property
    def other_target(self) -> bool:
        """Whether the two reports are on different targets."""
        return self.targets[0] != self.targets[1]

    def to_json(self) -> dict[str, object]:
        """As JSON can hold it; `report` says what the fields of a finding are."""
        findings = {
            name: [
                {
                    "check": change.check,
                    "finding": change.finding.model_dump(),
                    "before": change.before,
                    "after": change.after,
                    "judged_in_both": change.judged,
                }
                for change in getattr(self, name)
            ]
            for name in ("appeared", "gone", "suppressed")
        }
        document = {
            "schema_version": 1,
            "worse": self.worse,
            "targets": dict(zip(("old", "new"), self.targets, strict=True)),
            "conditions": [dict(zip(("what", "old", "new"), one, strict=True)) for one in self.conditions],
            "setup": [dict(zip(("what", "old", "new"), one, strict=True)) for one in self.setup],
            **findings,
            "statuses": [{**dataclasses.asdict(one), "worse": one.worse} for one in self.statuses],
            "moved": [{**dataclasses.asdict(one), "factor": one.factor} for one in self.moved],
        }
        result: dict[str, object] = plain(document)
        return result


def compare(old: Report, new: Report) -> Comparison:
    """What is different in `new`. The order of checks and findings is that of the reports."""
    checks = list(dict.fromkeys(check.id for report in (new, old) for check in report.checks))
    before, after = ({check.id: check for check in report.checks} for report in (old, new))
    changes = [change for id in checks for change in _changes(id, before.get(id), after.get(id))]
    apart = [change for change in changes if "suppressed" in (change.before, change.after)]
    told = [change for change in changes if change not in apart]
    # What is not suppressed any more counts like anything else that appears.
    told += [change for change in apart if change.worse]
    return Comparison(
        targets=(old.target, new.target),
        conditions=tuple(_conditions(old.environment, new.environment)),
        setup=tuple(setup_facts.changed(old, new)),
        appeared=tuple(change for change in told if change.worse or change.before is None),
        gone=tuple(change for change in told if not change.worse and change.before is not None),
        suppressed=tuple(change for change in apart if not change.worse),
        statuses=tuple(_statuses(checks, before, after)),
        moved=(*moved(old, new), *(one for id in checks for one in _extents(id, before.get(id), after.get(id)))),
    )


def _changes(id: str, old: CheckResult | None, new: CheckResult | None) -> Iterator[Change]:
    for was, finding in _pairs(old, new):
        if finding is None:
            assert was is not None
            yield Change(id, was, _state(was), None, _gave_verdict(new))
        elif was is None:
            yield Change(id, finding, None, _state(finding), _gave_verdict(old))
        elif _state(was) != _state(finding):
            yield Change(id, finding, _state(was), _state(finding))


def _extents(id: str, old: CheckResult | None, new: CheckResult | None) -> Iterator[Movement]:
    """What the evidence of findings in both says of how far they go."""
    for was, finding in _pairs(old, new):
        if was is not None and finding is not None:
            for key, unit, a, b in extent(was.evidence, finding.evidence):
                yield Movement(f"{key} of {finding.code}", finding.location, id, unit, a, b)


def _pairs(
    old: CheckResult | None, new: CheckResult | None
) -> Iterator[tuple[FindingResult | None, FindingResult | None]]:
    """Each finding of both, the same ones together."""
    left = list(old.findings) if old else []
    for finding in new.findings if new else ():
        same = next((one for one in left if _key(one) == _key(finding)), None)
        if same is not None:
            left.remove(same)
        yield same, finding
    yield from ((finding, None) for finding in left)


def _key(finding: FindingResult) -> tuple[str, str | None]:
    return finding.code, finding.location


def _state(finding: FindingResult) -> State:
    if finding.suppressed is not None:
        return "suppressed"
    if finding.follows_from is not None:
        return "follows"
    return "fails" if finding.severity == "fail" else "warns"


def _gave_verdict(check: CheckResult | None) -> bool:
    # A check whose findings all follow from another's is a skip, but it has looked.
    return check is not None and (check.status in JUDGED or bool(check.findings))


def _statuses(
    checks: Iterable[str], before: Mapping[str, CheckResult], after: Mapping[str, CheckResult]
) -> Iterator[StatusChange]:
    for id in checks:
        old, new = before.get(id), after.get(id)
        if (old and old.status) != (new and new.status):
            explained = any(check is not None and check.status == "skip" and check.findings for check in (old, new))
            yield StatusChange(
                id, old.status if old else None, new.status if new else None, _why(new or old), bool(explained)
            )


def _why(check: CheckResult | None) -> str:
    if check is None:
        return ""
    return check.error.message if check.error else check.skip_reason or check.summary


def _conditions(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    for fact in CONDITIONS:
        if old.get(fact) != new.get(fact):
            yield fact, _said(old.get(fact)), _said(new.get(fact))


def _said(value: object) -> str:
    return "unknown" if value is None else str(value)


def roots(changes: Sequence[Change]) -> list[tuple[Change | None, list[Change]]]:
    """The changes grouped: each cause with the consequences that changed along with it, and last, without a cause, those
    whose cause has not changed itself."""
    causes = [change for change in changes if change.finding.follows_from is None]
    groups: list[tuple[Change | None, list[Change]]] = [(cause, []) for cause in causes]
    rest: list[Change] = []
    above = {c.finding.code: c.finding.follows_from for c in changes if c.finding.follows_from is not None}
    for change in changes:
        code = change.finding.follows_from
        if code is None:
            continue
        seen = set()
        while code in above and code not in seen and not any(code == cause.finding.code for cause in causes):
            seen.add(code)
            code = above[code]
        home = next((below for cause, below in groups if cause is not None and cause.finding.code == code), rest)
        home.append(change)
    return [*groups, *([(None, rest)] if rest else [])]
