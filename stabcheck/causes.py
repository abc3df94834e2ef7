"""One root cause first: which findings explain which others.

The table is the only place where checks know of each other. A finding that follows from another stays in the report,
marked, under its cause; it does not count towards its check's status. A check whose findings all follow from
another check's is a skip: what it would have said without the cause is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stabcheck.report import CheckResult, FindingResult, status_of


@dataclass(frozen=True)
class Explains:
    """`cause` explains each of `effects` (codes, or prefixes of codes)."""

    cause: str
    effects: tuple[str, ...]
    why: str


NO_FIT = ("SC0101", "SC0105")
EXPLAINS: tuple[Explains, ...] = (
    Explains(
        "SC0205",
        ("SC01", "SC0201", "SC0206", "SC07", "SC08", "SC09", "SC12"),
        "NaN in a batch spoils everything that is trained on it",
    ),
    Explains(
        "SC0206",
        ("SC0105", "SC0111", "SC0201", "SC0110", "SC07", "SC08", "SC09", "SC12"),
        "a loss that is not a number trains nothing",
    ),
    Explains("SC0104", ("SC0202", "SC07", "SC09", "SC12"), "without a graph nothing is trained"),
    Explains(
        "SC0201",
        (*NO_FIT, "SC0106", "SC0108", "SC0110", "SC07", "SC08", "SC09", "SC1201"),
        "an infinite gradient turns the weights into NaN",
    ),
    Explains("SC0203", ("SC0109", "SC0704", "SC1202"), "the clipping is what makes the steps so small"),
    Explains("SC0107", ("SC07", "SC09", "SC12"), "weights that are never updated learn nothing"),
    Explains(
        "SC0803",
        ("SC0108", "SC0110", "SC0204", "SC07", "SC09", "SC1201"),
        "activations that start too large drown what comes after",
    ),
    Explains(
        "SC0801",
        ("SC0105", "SC0108", "SC0110", "SC0204", "SC07", "SC09", "SC1201"),
        "after an overflow nothing is learnt",
    ),
    Explains(
        "SC1201",
        ("SC0105", "SC0108", "SC0110", "SC0204", "SC0703", "SC0704", "SC0802", "SC0902", "SC0903"),
        "the same training at a lower rate does not show it",
    ),
    Explains(
        "SC0802", ("SC0108", "SC0110", "SC0204", "SC07"), "a loss that diverges fits nothing and kills the signal"
    ),
    Explains("SC0510", ("SC0107", "SC0109", "SC0704", "SC1202"), "the rate is many times smaller than what was meant"),
    Explains("SC0508", ("SC0109", "SC0704", "SC1202"), "the rate never gets to where it was meant to be"),
    Explains("SC0514", ("SC0107", "SC0109", "SC0704", "SC1202"), "at rate zero nothing moves"),
    Explains("SC1202", ("SC0109", "SC07", "SC0903"), "at this rate nothing can have been learnt yet"),
    Explains("SC0109", ("SC0704",), "at this rate nothing can have been learnt yet"),
    Explains(
        "SC0901", (*NO_FIT, "SC0110", "SC07", "SC1201"), "a layer that never fires passes neither signal nor gradient"
    ),
    Explains("SC0902", ("SC07", "SC0108", "SC0110"), "the dead layer is why the signal was lost"),
    Explains("SC0701", (*NO_FIT, "SC0110", "SC0903", "SC1201"), "layers without a gradient cannot fit anything"),
    Explains("SC0702", (*NO_FIT, "SC0110", "SC0903", "SC1201"), "an output that ignores the input cannot fit anything"),
    Explains("SC0101", ("SC0705",), "inputs without effect give the same output for every input"),
)
"""Earlier lines win. A cause counts only if it is a failure itself and does not follow from another."""


def fold(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """The results with consequences marked by `follows_from`, in the same order."""
    failed = {f.code for r in results for f in r.findings if f.severity == "fail"}
    owner: dict[str, str] = {}
    for line in EXPLAINS:
        if line.cause not in failed or line.cause in owner:
            continue
        for code in {f.code for r in results for f in r.findings}:
            if (
                code != line.cause
                and code not in owner
                and code not in owner.values()
                and code.startswith(line.effects)
            ):
                owner[code] = line.cause
    return tuple(_marked(result, owner) for result in results)


def _marked(result: CheckResult, owner: dict[str, str]) -> CheckResult:
    if not any(f.code in owner for f in result.findings):
        return result
    findings: tuple[FindingResult, ...] = tuple(
        f.model_copy(update={"follows_from": owner.get(f.code)}) for f in result.findings
    )
    reason = result.skip_reason
    if all(f.follows_from for f in findings) and result.error is None:
        causes = ", ".join(sorted({f.follows_from for f in findings if f.follows_from}))
        reason = f"cannot be judged before {causes} is mended, which explains what it found"
    status = status_of(findings, error=result.error, skip_reason=reason)
    return result.model_copy(update={"findings": findings, "skip_reason": reason, "status": status})
