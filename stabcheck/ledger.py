"""What is known of a run so far: which checks have a result, what comes next, and at the end the Report.

It takes in what workers say and gives out events. It knows nothing of processes.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stabcheck import recording as recordings
from stabcheck import thresholds
from stabcheck.causes import fold
from stabcheck.check import Check, NotChecked
from stabcheck.events import CheckFinished, Event, Loaded, Progress, Recorded
from stabcheck.judging import Judged, failed, gathered, judge, only, regraded, skipped
from stabcheck.options import Options
from stabcheck.protocol import Message
from stabcheck.recording import Recording
from stabcheck.report import STATUSES, CheckError, CheckResult, NotCheckedResult, Report, overall
from stabcheck.selection import Selection
from stabcheck.suppressions import suppress
from stabcheck.version import __version__

INTERRUPTED = CheckError(
    blame="target", stage="interrupted", message="the run was interrupted before this check was done"
)


class Ledger:
    """The state of one run."""

    def __init__(self, target: str, options: Options, selection: Selection) -> None:
        self.target, self.options, self.selection = target, options, selection
        self.shown_as = options.shown_as or target
        self.recording: Recording | None = None
        self.deadline: float | None = None
        """time.monotonic() at which the budget is spent; None before the target was loaded."""
        self.trial_is_due = any(check.needs_trial for check in selection.checks)
        self._results: dict[str, CheckResult] = {}
        self._not_checked: list[tuple[str, NotChecked]] = []
        self._facts: dict[str, Any] = {}
        experiments = [check for check in selection.checks if check.kind == "experiment"]
        # What does not fit the budget is at the end.
        self._experiments = sorted(experiments, key=lambda check: check.cost == "dear")

    @property
    def pending(self) -> list[Check]:
        """Experiments without a result, in the order in which they are to run."""
        return [check for check in self._experiments if check.id not in self._results]

    @property
    def stage(self) -> str | None:
        """What is next: "trial", the id of an experiment, or None if nothing is left."""
        if self.trial_is_due:
            return "trial"
        return self.pending[0].id if self.pending else None

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.options.budget if self.deadline is None else self.deadline - time.monotonic()

    def take(self, message: Message) -> Iterator[Event]:
        """What a worker's message (see `protocol`) means for the run."""
        kind = message["type"]
        if kind == "started":
            yield Progress("loading" if message["stage"] == "load" else message["stage"])
        elif kind == "progress":
            yield Progress(message["stage"], message["fraction"], message["detail"])
        elif kind == "loaded" and self.deadline is None:
            self.deadline = time.monotonic() + self.options.budget
            self._facts = message["facts"]
            yield Loaded(message["seconds"], message["facts"])
        elif kind == "recorded":
            recording = recordings.from_json(message["recording"])
            self.recording = dataclasses.replace(recording, target=self.shown_as)
            yield Recorded(self.recording)
            yield from self.diagnose()
        elif kind == "result":
            left_out = tuple(NotChecked(*item) for item in message["not_checked"])
            yield self._enter(Judged(CheckResult.model_validate(message["result"]), left_out))
        elif kind == "failed":
            error = CheckError.model_validate(message["error"]) if "error" in message else None
            yield from self.fail(message["stage"], error, message.get("skip_reason", ""))

    def fail(self, stage: str, error: CheckError | None, skip_reason: str = "") -> Iterator[Event]:
        """A stage is over without a result, for good: "load" means that nothing more can be run, "trial" concerns all
        checks that need it, the id of an experiment that one alone."""
        if stage == "load":
            concerned: Iterable[Check] = self.selection.checks
        elif stage == "trial":
            concerned = [check for check in self.selection.checks if check.needs_trial]
        else:
            concerned = [check for check in self.selection.checks if check.id == stage]
        if stage in {"load", "trial"}:
            self.trial_is_due = False
        for check in concerned:
            if check.id not in self._results:
                yield self._enter(Judged(failed(check, error) if error else skipped(check, skip_reason)))

    def diagnose(self) -> Iterator[Event]:
        """Judge the recording."""
        self.trial_is_due = False
        recording = self.recording
        for check in self.selection.checks:
            if check.kind != "diagnosis":
                continue
            with thresholds.changed([check], self.options.thresholds):
                judged = judge(check, recording, contained=False)
            if recording is not None and recording.failure and judged.result.status == "pass":
                # The training raised: what was found before is worth knowing, but that nothing was is worth nothing.
                taken = f"{recording.failure}, at step {len(recording.steps) + 1} of {recording.planned}"
                error = CheckError(blame="target", stage="trial", message=taken)
                judged = Judged(failed(check, error), judged.not_checked)
            yield self._enter(judged)

    def interrupted(self, results: Iterable[CheckResult], facts: Mapping[str, Any]) -> Report:
        """The Report of a run that ended after `results`: every other check could not run."""
        self._facts = dict(facts)
        self._results = {result.id: result for result in results}
        for check in self.selection.checks:
            self._results.setdefault(check.id, failed(check, INTERRUPTED))
        return self.report()

    def report(self) -> Report:
        """The Report; every check must have its result."""
        folded = fold([self._results[check.id] for check in self.selection.checks])
        # What explains what does not depend on how grave the user finds it, but what is known does.
        graded = [regraded(result, self.selection.severities) for result in folded]
        accepted, suppressions = suppress(
            graded,
            self.options.suppressions,
            self.options.today,
            {check.id: [rule.code for rule in check.rules] for check in self.selection.checks},
        )
        checks = tuple(accepted)
        counts = Counter(check.status for check in checks)
        return Report(
            status=overall(checks),
            target=self.shown_as,
            environment=self._environment(),
            counts={status: counts[status] for status in STATUSES},
            checks=checks,
            not_checked=tuple(NotCheckedResult(what=one.what, why=one.why) for one in gathered(self._not_checked)),
            suppressions=suppressions,
        )

    def _enter(self, judged: Judged) -> CheckFinished:
        result = only(judged.result, self.selection.reports)
        self._results[result.id] = result
        self._not_checked += [(result.id, item) for item in judged.not_checked]
        return CheckFinished(result)

    def _environment(self) -> dict[str, Any]:
        torch = self._facts.get("torch")
        if torch is None:
            try:
                torch = importlib.metadata.version("torch")
            except importlib.metadata.PackageNotFoundError:
                torch = None
        recording = self.recording
        configuration = {"configuration": self.options.configuration} if self.options.configuration else {}
        return {
            "stabcheck": __version__,
            "python": platform.python_version(),
            "torch": torch,
            "platform": platform.platform(),
            "device": self._facts.get("device"),
            "entry": ":".join(map(str, self._facts.get("entry") or ())) or None,
            "seed": recording.seed if recording is not None else self.options.seed,
            "steps": recording.planned if recording is not None else self.options.steps,
            **configuration,
        }
