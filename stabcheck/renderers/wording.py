"""What every written format says of a report in the same words: places, sentences and the order of findings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stabcheck.renderers.findings import causes, relative, unchecked
from stabcheck.renderers.terminal import verdict_of

if TYPE_CHECKING:
    from stabcheck.check import Check, Rule
    from stabcheck.report import CheckResult, FindingResult, Report, SourceLine


@dataclass(frozen=True)
class Said:
    """One finding, with the check that it belongs to."""

    check: CheckResult
    finding: FindingResult
    rule: Rule | None
    """None for a check that the catalogue at hand does not have."""

    @property
    def title(self) -> str:
        """Code and name of the rule, and where in the model."""
        name = f" {self.rule.name}" if self.rule else ""
        where = f" at {self.finding.location}" if self.finding.location else ""
        return f"{self.finding.code}{name}{where}"


class Wording:
    """A report with the catalogue that its rules are in; paths inside the directory `base` are shown relative to it."""

    def __init__(self, report: Report, catalog: Sequence[Check] = (), base: str | None = None) -> None:
        self.report, self.base = report, base
        self.rules: Mapping[str, Rule] = {rule.code: rule for check in catalog for rule in check.rules}
        self.causes = causes(report)
        self.verdict = verdict_of(report, self.causes, self.rules, base)
        self.unchecked = unchecked(report, catalog)
        """(what, why) of everything in this set-up that was not checked."""

    def said(self) -> Iterator[Said]:
        """The findings that count, causes before symptoms and failures before warnings."""
        for cause in self.causes:
            for finding in cause.findings:
                yield self.of(cause.check, finding)

    def of(self, check: CheckResult, finding: FindingResult) -> Said:
        """One finding."""
        return Said(check, finding, self.rules.get(finding.code))

    def explained(self, code: str) -> list[Said]:
        """The findings that follow from a rule's."""
        return [
            self.of(check, finding) for cause in self.causes if cause.code == code for check, finding in cause.followers
        ]

    def place(self, said: Said) -> SourceLine | None:
        """The user's line that a finding is about, else the entry function's; the file is relative to `base`."""
        source = said.finding.source or self.entry
        return source.model_copy(update={"file": relative(source.file, self.base)}) if source else None

    @property
    def entry(self) -> SourceLine | None:
        """Where the entry function is, if the target could be loaded."""
        from stabcheck.report import SourceLine

        file, _, line = str(self.report.environment.get("entry") or "").rpartition(":")
        return SourceLine(file=file, line=int(line)) if file and line.isdigit() else None


def slashed(path: str) -> str:
    """The path as a URL and other systems write it."""
    return path.replace(os.sep, "/")
