"""What is different between two reports, for a person: the verdict, then what appeared and went with causes before what
follows from them, the checks that changed, the measurements that moved, and apart what is suppressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stabcheck.comparison import roots
from stabcheck.movements import value_of
from stabcheck.renderers.findings import NAMED, place
from stabcheck.renderers.text import STATUS_STYLES, STATUS_WORDS, Paper, clip, fact, seconds, short

if TYPE_CHECKING:
    from stabcheck.check import Check, Rule
    from stabcheck.comparison import Change, Comparison, StatusChange
    from stabcheck.movements import Movement

STATES = {"fails": "failed", "warns": "a warning", "follows": "a consequence", "suppressed": "suppressed"}
"""What a finding was, after "before: "."""

SHOWN = 12
"""Movements that are shown before the rest is only counted: when a whole model moves, its first layers tell enough."""


def render(
    comparison: Comparison,
    names: tuple[str, str],
    *,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
    catalog: Sequence[Check] = (),
    base: str | None = None,
    verbose: bool = False,
) -> str:
    """The comparison as lines of at most `width` cells (never below `text.MIN_WIDTH`); `names` are those of the two files."""
    paper = Paper(width, color, ascii)
    rules = {rule.code: rule for check in catalog for rule in check.rules}
    _write_header(paper, comparison, names)
    paper.write(paper.words((verdict(comparison), "bold red" if comparison.worse else "green")))
    _write_setup(paper, comparison)
    _write_changes(paper, "Appeared", comparison.appeared, rules, base)
    _write_changes(paper, "Went", comparison.gone, rules, base)
    _write_statuses(paper, comparison.statuses)
    _write_moved(paper, comparison.moved, verbose=verbose)
    _write_suppressed(paper, comparison.suppressed)
    return paper.text()


def verdict(comparison: Comparison) -> str:
    """What came out, in one sentence."""
    appeared = sum(change.worse for change in comparison.appeared)
    gone = sum(change.before in {"fails", "warns"} and change.judged for change in comparison.gone)
    unjudged = sum(change.before in {"fails", "warns"} and not change.judged for change in comparison.gone)
    worse = [status for status in comparison.statuses if status.worse]
    lost = [status for status in comparison.statuses if status.lost and not status.worse and not status.explained]
    parts = [_count(appeared, "finding") + " appeared"] if appeared else []
    for after, words in (("error", "newly cannot run"), ("fail", "newly fails"), ("warn", "newly warns")):
        ids = [status.check for status in worse if status.after == after]
        if ids:
            parts.append(
                f"{', '.join(ids) if len(ids) <= NAMED else f'{len(ids)} checks'} "
                + (words if len(ids) == 1 else words.replace("fails", "fail").replace("warns", "warn"))
            )
    parts += [_count(gone, "finding") + " went"] if gone else []
    parts += (
        [_count(unjudged, "finding") + (" is" if unjudged == 1 else " are") + " not judged any more"]
        if unjudged
        else []
    )
    parts += [f"{', '.join(status.check for status in lost)} gave no verdict this time"] if lost else []
    parts += [_count(len(comparison.moved), "measurement") + " moved"] if comparison.moved else []
    if comparison.same:
        return "Nothing has changed."
    if comparison.setup:
        what, old, new = comparison.setup[0]
        more = f" and {_count(len(comparison.setup) - 1, 'other fact')}" if len(comparison.setup) > 1 else ""
        parts.append(f"changed in the set-up: {what} {old} → {new}{more}")
    # Whatever is told below has a word here.
    rest = [status for status in comparison.statuses if not (status.worse or status.lost)]
    parts += [f"{_count(len(rest), 'check')} gave another verdict, none worse"] if rest and not parts else []
    counted = sum(map(len, (comparison.appeared, comparison.gone)))
    parts += [_count(counted, "consequence") + " of what is known came or went"] if counted and not parts else []
    parts += [f"{_count(len(comparison.suppressed), 'finding')} that is suppressed changed"] if not parts else []
    return ("Worse: " if comparison.worse else "Nothing worse: ") + "; ".join(parts) + "."


def _write_header(paper: Paper, comparison: Comparison, names: tuple[str, str]) -> None:
    old, new = names
    paper.write(paper.words(("stabcheck diff", "bold"), f" · {old} → {new}"))
    if comparison.other_target:
        was, is_now = comparison.targets
        paper.write(paper.words((f"These are reports on different targets: {was} and {is_now}.", "yellow")))
    else:
        paper.write(paper.words((comparison.targets[1], "dim")))
    if comparison.conditions:
        facts = ", ".join(f"{what} {old} → {new}" for what, old, new in comparison.conditions)
        short_of = any(what == "steps" for what, _, _ in comparison.conditions)
        left_out = " What is measured over the trial is not compared." if short_of else ""
        paper.write(paper.words((f"Not run alike: {facts}.{left_out}", "yellow")))
    paper.write()


def _write_setup(paper: Paper, comparison: Comparison) -> None:
    if comparison.setup:
        paper.heading("Changed in the set-up")
        for what, old, new in comparison.setup:
            paper.hang("-", paper.words((what, "bold"), f": {old} → {new}"), room=1)


def _write_changes(
    paper: Paper, title: str, changes: Sequence[Change], rules: Mapping[str, Rule], base: str | None
) -> None:
    if not changes:
        return
    paper.heading(title)
    for cause, below in roots(changes):
        if cause is None:
            paper.hang("-", paper.words(("consequences of causes that are still there, or were:", "dim")), room=1)
        else:
            _write_change(paper, cause, rules, base)
            if below:
                paper.write(paper.words(("and with it, as it explains them:", "dim")), indent=4)
        for change in below[:NAMED]:
            paper.hang(
                "-", paper.words(*_named(change, rules), (f": {clip(change.finding.message)}", "dim")), indent=4, room=1
            )
        if len(below) > NAMED:
            paper.write(paper.words((f"and {len(below) - NAMED} more (--json has them)", "dim")), indent=4)


def _write_change(paper: Paper, change: Change, rules: Mapping[str, Rule], base: str | None) -> None:
    finding = change.finding
    status = "fail" if finding.severity == "fail" else "warn"
    is_here = change.after is not None
    style = STATUS_STYLES[status] if is_here else "green"
    source = f" ({place(finding.source, base)})" if finding.source else ""
    head = paper.words(
        (STATUS_WORDS[status] if is_here else "gone", style), "  ", *_named(change, rules), (source, "cyan")
    )
    paper.write(head, indent=2)
    notes = []
    if change.before is not None and is_here:
        notes.append(f"before: {STATES[change.before]}")
    if not change.judged:
        notes.append(
            "its check gave no verdict before: it may not be new"
            if is_here
            else "its check gave no verdict this time: it may be there still"
        )
    if change.after == "follows":
        notes.append(f"now a consequence of {finding.follows_from}")
    for note in notes:
        paper.write(paper.words((f"({note})", "yellow")), indent=4)
    if is_here or not change.judged:
        paper.write(paper.words(finding.message), indent=4)
    if is_here and change.worse:
        paper.hang("Fix", paper.words(finding.fix), indent=4, style="bold green", room=3)


def _named(change: Change, rules: Mapping[str, Rule]) -> list[tuple[str, str]]:
    finding = change.finding
    name = f" {rules[finding.code].name}" if finding.code in rules else ""
    where = f" at {finding.location}" if finding.location else ""
    return [(f"{finding.code}{name}", "bold"), (f" · {change.check}{where}", "")]


def _write_statuses(paper: Paper, statuses: Sequence[StatusChange]) -> None:
    # What is skipped for its cause is told beneath that.
    statuses = [status for status in statuses if status.worse or not status.explained]
    if not statuses:
        return
    paper.heading("Checks that changed")
    # A newer stabcheck has checks that the old report could not have: those that say nothing share a line.
    groups: dict[str, list[str]] = {}
    alike: dict[tuple[object, object, str], list[str]] = {}
    for status in statuses:
        alike.setdefault((status.before, status.after, status.why), []).append(status.check)
    for status in statuses:
        if status.before is None and status.after in {"pass", "skip"}:
            groups.setdefault("only in the new report, nothing found", []).append(status.check)
        elif status.after is None:
            groups.setdefault("only in the old report", []).append(status.check)
        else:
            ids = alike[status.before, status.after, status.why]
            if ids[0] != status.check:
                continue
            before = STATUS_WORDS[status.before] if status.before else "not there"
            after = str(status.after)
            row = paper.words((", ".join(ids), "bold"), f": {before} → ", (STATUS_WORDS[after], STATUS_STYLES[after]))
            row.append_text(paper.words((f" · {clip(status.why)}", "dim")))
            paper.hang("-", row, room=1)
    for what, ids in groups.items():
        paper.hang("-", paper.words(f"{', '.join(ids)}: ", (what, "dim")), room=1)


def _write_moved(paper: Paper, movements: Sequence[Movement], *, verbose: bool) -> None:
    if not movements:
        return
    paper.heading("Moved, by more than another seed does")
    for one in movements if verbose else movements[:SHOWN]:
        where = f" at {one.where}" if one.where else ""
        row = paper.words((f"{one.what}{where}", "bold"), f": {_value(one, one.old)} → {_value(one, one.new)}")
        if one.factor is not None:
            row.append_text(paper.words((f" (×{short(one.factor)})", "dim")))
        paper.hang("-", row, room=1)
    if not verbose and len(movements) > SHOWN:
        paper.write(paper.words((f"and {len(movements) - SHOWN} more (-v shows them)", "dim")), indent=2)


def _value(movement: Movement, value: float) -> str:
    if movement.unit == "seconds":
        return seconds(value)
    return value_of("share", value) if movement.unit == "share" else fact(value)


def _write_suppressed(paper: Paper, changes: Sequence[Change]) -> None:
    if not changes:
        return
    paper.heading("Suppressed, so it does not count")
    for change in changes:
        finding = change.finding
        where = f" at {finding.location}" if finding.location else ""
        what = {None: "appeared", "suppressed": "was there", "fails": "failed before", "warns": "warned before"}
        happened = "went" if change.after is None else what.get(change.before, "was a consequence before")
        reason = f" ({finding.suppressed})" if finding.suppressed else ""
        paper.hang("-", paper.words(f"{finding.code} {change.check}{where}: {happened}", (reason, "dim")), room=1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
