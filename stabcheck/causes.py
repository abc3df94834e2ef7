"""One root cause first: which findings explain which others.

The table is the only place where checks know of each other. A finding that follows from another stays in the report,
marked, under its cause; it does not count towards its check's status. A check whose findings all follow from
another check's is a skip: what it would have said without the cause is not known.
"""

from __future__ import annotations

import re
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
RAISED_LENGTH = 300
"""Characters by which exceptions are compared: long ones are cut where they are published."""
UNFIT = ("SC0101", "SC0103", "SC0105", "SC0106", "SC0108", "SC0109", "SC0110", "SC07", "SC08", "SC09")
"""What a loss that asks for the wrong thing looks like from outside."""
BAD_LOSS = ("SC0104", "SC0111", "SC0201", "SC0204", "SC0206")
SPOILT_TRAINING = (
    *(*NO_FIT, "SC0106", "SC0108", "SC0109", "SC0110", "SC0111"),
    *("SC0201", "SC0203", "SC0204", "SC0206", "SC07", "SC08", "SC09"),
)
"""What may be seen wherever nothing, or only nonsense, is learnt."""
SPOILT = ("SC0107", "SC0108", "SC0109", "SC0110", "SC07", "SC09")
"""What is seen of a training that does not go as it is written."""
WILD = ("SC0201", "SC0204", "SC08")
TRAINS_BADLY = (
    *(*NO_FIT, "SC0106", "SC0107", "SC0108", "SC0109", "SC0110", "SC0201", "SC0204", "SC0206"),
    *("SC0111", "SC07", "SC08", "SC09", "SC11", "SC12", "SC13"),
)
"""What is said of a set-up whose steps are not those of its gradient."""
EXPLAINS: tuple[Explains, ...] = (
    Explains(
        "SC1701",
        (*SPOILT_TRAINING, "SC0205", "SC0611"),
        "NaN in a sample spoils everything that is trained or judged on it",
    ),
    Explains(
        "SC1706",
        (*NO_FIT, "SC0102", "SC0106", "SC0110", "SC0302", "SC0304", "SC0307", "SC07"),
        "from equal inputs nothing can be told apart",
    ),
    Explains(
        "SC1707",
        (*NO_FIT, "SC0103", "SC0110", "SC07"),
        "where one answer is always right the inputs do not matter",
    ),
    Explains("SC1705", ("SC0102", "SC0106", "SC0110", "SC07"), "labels of other inputs are noise"),
    Explains("SC1711", ("SC0307", "SC07"), "labels of other inputs are noise"),
    Explains("SC1708", SPOILT_TRAINING, "inputs of such a scale are why training fails"),
    Explains("SC1709", SPOILT_TRAINING, "targets of such a scale are why training fails"),
    Explains("SC1713", SPOILT_TRAINING, "the codes are numbers of a size that nothing else has"),
    Explains(
        "SC1704",
        ("SC0204", "SC0703", "SC08", "SC0902", "SC0903"),
        "batches of one kind pull the model from one constant guess to the next",
    ),
    Explains("SC1710", ("SC0611", "SC0613"), "what is validated is not what was trained on"),
    Explains(
        "SC0205",
        ("SC01", "SC0201", "SC0206", "SC07", "SC08", "SC09"),
        "NaN in a batch spoils everything that is trained on it",
    ),
    Explains("SC1601", UNFIT, "outputs squeezed before the loss cannot reach the targets, and pass little gradient on"),
    Explains("SC1602", (*UNFIT, *BAD_LOSS), "a loss of scores where logarithms belong has no lower end"),
    Explains("SC1603", UNFIT, "a loss that compares everything with everything is least at the mean"),
    Explains("SC1604", (*UNFIT, *BAD_LOSS), "targets outside of the loss's range pull without end, or are refused"),
    Explains("SC1606", (*UNFIT, *BAD_LOSS), "probabilities over another axis say nothing of the classes"),
    Explains("SC1607", (*UNFIT, *BAD_LOSS), "what is pushed away from its targets fits nothing and grows without end"),
    Explains("SC1609", (*UNFIT, "SC0102"), "without targets there is nothing to fit"),
    Explains("SC1610", (*UNFIT, *BAD_LOSS), "a mean over nothing is NaN"),
    Explains("SC1614", (*UNFIT, *BAD_LOSS), "the loss of what does not fit is infinite"),
    Explains("SC1615", (*UNFIT, *BAD_LOSS), "a loss with its arguments exchanged fits something else"),
    Explains(
        "SC0206",
        ("SC0105", "SC0111", "SC0201", "SC0110", "SC07", "SC08", "SC09"),
        "a loss that is not a number trains nothing",
    ),
    Explains("SC1502", SPOILT, "without a gradient at the step nothing is learnt"),
    Explains("SC1504", SPOILT, "without a step nothing is learnt"),
    Explains("SC1506", SPOILT, "what no optimizer holds is not trained"),
    Explains("SC1510", ("SC0202", *SPOILT), "without a gradient nothing is learnt"),
    Explains("SC1513", SPOILT, "an update that is undone teaches nothing"),
    Explains("SC2203", ("SC1501", *SPOILT, *WILD), "old gradients are part of each step within the window"),
    Explains("SC1501", (*SPOILT, *WILD), "steps with old gradients go where no batch points"),
    Explains("SC1505", SPOILT, "a layer that stays random spoils what is built on it"),
    Explains("SC1507", (*SPOILT, *WILD), "each step is taken twice"),
    Explains("SC1508", (*SPOILT, *WILD), "the clipping that was to bound the steps does not"),
    Explains("SC1509", ("SC0203", *SPOILT), "the steps are shorter than meant by the scaler's factor"),
    Explains("SC2201", SPOILT, "most of the data is thrown away"),
    Explains("SC2202", (*SPOILT, *WILD), "the rate is another than the one written down"),
    *(
        Explains(code, TRAINS_BADLY, why)
        for code, why in (
            ("SC2401", "steps that climb the loss fit nothing and make it explode"),
            ("SC2402", "a velocity that never forgets throws the weights away"),
            ("SC2403", "a velocity that piles up throws the weights away"),
            ("SC2404", "old gradients over new denominators make wild steps"),
            ("SC2405", "steps that eps makes tiny move nothing"),
            ("SC2406", "weights that decay to zero carry no signal"),
            ("SC2407", "weights that grow at every step explode"),
            ("SC2408", "nothing passes where everything is dropped"),
        )
    ),
    *(
        Explains(code, TRAINS_BADLY, why)
        for code, why in (
            ("SC2101", "steps many times too large throw the weights away"),
            ("SC2102", "steps that are skipped train nothing"),
            ("SC2103", "gradients that are flushed to zero train nothing"),
            ("SC2104", "a gradient that points elsewhere trains nothing"),
            ("SC2105", "updates that are rounded away train nothing"),
            ("SC2106", "a division by zero turns the weights into NaN"),
            ("SC2107", "inputs that wrapped around cannot be told apart"),
            ("SC2108", "an overflow turns the loss into NaN"),
        )
    ),
    Explains("SC0104", ("SC0202", "SC07", "SC09"), "without a graph nothing is trained"),
    Explains(
        "SC0201",
        (*NO_FIT, "SC0106", "SC0108", "SC0110", "SC07", "SC08", "SC09"),
        "an infinite gradient turns the weights into NaN",
    ),
    Explains("SC0203", ("SC0109", "SC0704"), "the clipping is what makes the steps so small"),
    Explains("SC0107", ("SC07", "SC09"), "weights that are never updated learn nothing"),
    Explains("SC0801", ("SC0105", "SC0108", "SC0110", "SC0204", "SC07", "SC09"), "after an overflow nothing is learnt"),
    Explains(
        "SC0802", ("SC0108", "SC0110", "SC0204", "SC07"), "a loss that diverges fits nothing and kills the signal"
    ),
    Explains(
        "SC0803",
        ("SC0108", "SC0110", "SC0204", "SC07", "SC09"),
        "activations that start too large drown what comes after",
    ),
    Explains("SC0510", ("SC0107", "SC0109", "SC0704"), "the rate is many times smaller than what was meant"),
    Explains("SC0508", ("SC0109", "SC0704"), "the rate never gets to where it was meant to be"),
    Explains("SC0517", ("SC0109", "SC0704"), "the rate never gets to where it was meant to be"),
    Explains("SC0514", ("SC0107", "SC0109", "SC0704"), "at rate zero nothing moves"),
    Explains("SC0109", ("SC0704",), "at this rate nothing can have been learnt yet"),
    Explains("SC0901", (*NO_FIT, "SC0110", "SC07"), "a layer that never fires passes neither signal nor gradient"),
    Explains("SC0902", ("SC07", "SC0108", "SC0110"), "the dead layer is why the signal was lost"),
    Explains("SC0701", (*NO_FIT, "SC0110", "SC0903"), "layers without a gradient cannot fit anything"),
    Explains("SC0702", (*NO_FIT, "SC0110", "SC0903"), "an output that ignores the input cannot fit anything"),
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
    return tuple(_excused(_marked(result, owner), results) for result in results)


def _excused(result: CheckResult, results: Sequence[CheckResult]) -> CheckResult:
    """A check that could not run for an exception that a failed finding explains (its evidence "raised") is a skip."""
    if result.error is None or result.error.blame != "target":
        return result
    said = _without_numbers(result.error.message)
    for finding in (f for r in results for f in r.findings if f.severity == "fail"):
        raised = _without_numbers(str(finding.evidence.get("raised") or ""))[:RAISED_LENGTH]
        if raised and raised in said:
            reason = f"cannot run before {finding.code} is mended, which explains what was raised"
            status = status_of((), skip_reason=reason)
            return result.model_copy(
                update={"error": None, "skip_reason": reason, "status": status, "summary": "skipped"}
            )
    return result


def _without_numbers(text: str) -> str:
    """Another batch raises the same with other numbers."""
    return re.sub(r"\d+", "#", " ".join(text.split()))


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
