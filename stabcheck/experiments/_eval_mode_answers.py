"""The part of eval-mode that judges whether the numbers of a validation tell of the model's answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Severity, Source

if TYPE_CHECKING:
    from stabcheck.trial.validation.rehearsal import Rehearsal

LAST_ONLY = Rule(
    "SC0620",
    "last-batch-only",
    "fail",
    message="{what} tells of the last of {forwards} batches only: with random numbers in place of the model's outputs for all "
    "the others it is the same to the last digit",
    fix="sum up over the batches inside the loop, and divide when it is done",
    why="A number of a few samples is mostly chance: early stopping and comparisons follow it.",
)
CARRIED = Rule(
    "SC0621",
    "result-carries-over",
    "fail",
    message="{what} is the {how} over this and all earlier calls of validate(): other outputs of the model in one call "
    "change what the next returns",
    fix="start the sums at zero, or call the metric's reset(), at the start of validate()",
    why="Every result is mixed with those of older weights, and improves or worsens long after the model did.",
)
BLIND = Rule(
    "SC0622",
    "result-blind-to-answers",
    "fail",
    message="{what} does not tell right from wrong: it is {right:.4g} when the model's outputs are replaced by the targets "
    "themselves, and {wrong:.4g} when these are dealt out to the wrong samples; the set-up's loss can tell",
    fix="look at the shapes and the axis in the metric: (N, 1) against (N,) compares all with all, argmax needs the axis of the "
    "classes; and at whether the targets are those of the same batch",
    why="The number stays where it is whatever the model learns.",
)
RULES = (LAST_ONLY, CARRIED, BLIND)


_SAYS_QUALITY = re.compile(
    r"acc|loss|err|f1|mse|mae|auc|r2|recall|precision|nll|score|(?<![a-z])(iou|dice|ce|ap)(?![a-z])", re.IGNORECASE
)
_SAYS_LAST = re.compile(r"last", re.IGNORECASE)


def judge(seen: Rehearsal, source: Source | None) -> Iterator[Finding]:
    """Numbers of the user's validation that do not measure the model."""
    told = seen.answers
    if told is None:
        return
    last = [key for key in told.last_only if not _SAYS_LAST.search(key)]
    if last := _measures(last, told.moving):
        yield LAST_ONLY.at(None, source=source, what=_named(last), forwards=seen.run.forwards)
    carried = told.carried or {}
    for how in dict.fromkeys(carried.values()):
        keys = [key for key, kind in carried.items() if kind == how]
        # Beside numbers of this validation alone, an average of all so far may be meant.
        severity: Severity | None = None if set(told.moving) <= carried.keys() else "warn"
        yield CARRIED.at(None, source=source, severity=severity, what=_named(keys), how=how)
    blind = told.blind or {}
    for key in _measures(blind, told.moving)[:1]:
        right, wrong = blind[key]
        yield BLIND.at(None, source=source, what=_named([key]), right=right, wrong=wrong)


def _measures(keys: Iterable[str], moving: Iterable[str]) -> list[str]:
    """Those that are meant to say how good the model is: by their names, or because there is no other number."""
    found = list(keys)
    return found if set(moving) <= set(found) else [key for key in found if _SAYS_QUALITY.search(key)]


def _named(keys: Iterable[str]) -> str:
    names = [key for key in keys if key]
    return f"{', '.join(names)} of validate()" if names else "the result of validate()"
