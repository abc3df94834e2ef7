"""Which checks to run and which rules to report, from `--select` and `--ignore`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stabcheck.check import Check, Severity
from stabcheck.setup import nearest
from stabcheck.userland import UsageError

__all__ = ["Selection", "UsageError", "choose"]


@dataclass(frozen=True)
class Selection:
    """The checks to run, in catalogue order, and the codes of the rules to report."""

    checks: tuple[Check, ...]
    codes: frozenset[str]
    severities: Mapping[str, Severity] = field(default_factory=dict)
    """Code of a rule -> the severity of all its findings, instead of its own."""

    def reports(self, code: str) -> bool:
        """Whether findings of this rule are to be reported."""
        return code in self.codes


def choose(
    catalog: Sequence[Check],
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    retired: Mapping[str, str] | None = None,
    severities: Mapping[str, Severity] | None = None,
) -> Selection:
    """Everything in the catalogue, or what is selected, without what is ignored, with the severities that are given. All
    take ids of checks, codes of rules (SC0901) and beginnings of codes (SC09); of two severities that of the fewer
    rules holds.

    Raises:
        UsageError: a word means nothing, or nothing is left.
    """
    every = {rule.code for check in catalog for rule in check.rules}
    ids = {check.id for check in catalog}
    if select:
        found = [_meant(word, catalog, retired or {}) for word in select]
        ids, every = set().union(*(f[0] for f in found)), set().union(*(f[1] for f in found))
    for word in ignore:
        ignored_ids, ignored_codes = _meant(word, catalog, retired or {})
        every -= ignored_codes
        # A check of which only some rules are ignored still runs.
        ids -= {check.id for check in catalog if check.id in ignored_ids and not _codes(check) & every}
    checks = tuple(check for check in catalog if check.id in ids)
    if not checks:
        raise UsageError("nothing is left to run: --ignore leaves out all that is selected")
    graded = [(_meant(word, catalog, retired or {})[1], severity) for word, severity in (severities or {}).items()]
    graded.sort(key=lambda one: len(one[0]), reverse=True)
    return Selection(checks, frozenset(every), {code: severity for codes, severity in graded for code in codes})


def _meant(word: str, catalog: Sequence[Check], retired: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """(ids of checks, codes of rules) that a word names."""
    for check in catalog:
        if word == check.id:
            return {check.id}, _codes(check)
    prefix = word.upper()
    if prefix in retired:
        if not retired[prefix]:
            raise UsageError(f"{word!r} is retired: nothing took its place")
        prefix = retired[prefix]
    if re.fullmatch(r"[A-Z]{2,8}\d{0,4}", prefix):
        codes = {code for check in catalog for code in _codes(check) if code.startswith(prefix)}
        if codes:
            return {check.id for check in catalog if _codes(check) & codes}, codes
    known = [check.id for check in catalog]
    if re.fullmatch(r"[A-Z]{2,8}\d+", prefix):
        # Codes of other checks are as similar as they are unrelated.
        known = sorted(code for check in catalog for code in _codes(check) if code[:4] == prefix[:4])
    raise UsageError(f"{word!r} is no check and no rule{nearest(word, known)}; stabcheck list shows them all")


def _codes(check: Check) -> set[str]:
    return {rule.code for rule in check.rules}
