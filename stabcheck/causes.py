"""One root cause first: which findings explain which others.

The table is the only place where checks know of each other. A finding that follows from another stays in the report,
marked, under its cause; it does not count towards its check's status. A check whose findings all follow from
another check's is a skip: what it would have said without the cause is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stabcheck.report import CheckResult, FindingResult, status_of


@dataclass(frozen=True)
class Explains:
    """Each of `causes` explains each of `effects` (codes, or prefixes of codes)."""

    causes: tuple[str, ...]
    effects: tuple[str, ...]
    why: str


NO_FIT = ("SC0101", "SC0103", "SC0105", "SC0106", "SC0110")
"""One batch is not fitted, for whatever reason."""
RATE = ("SC0108", "SC0109", "SC12")
"""The rate looks wrong."""
STILL = ("SC0107", "SC0207", "SC0704")
"""Weights stay where they are."""
BROKEN = ("SC0104", "SC0111", "SC0201", "SC0202", "SC0205", "SC0206", "SC0209", "SC0611")
"""Gradients or losses that are missing or no numbers."""
FADED = ("SC07", "SC09", "SC11")
"""Layers without signal or gradient."""
WILD = ("SC0203", "SC0204", "SC08")
"""Gradients, activations or losses that grow."""
TREND = ("SC13",)
"""The loss does not do what losses do."""
TRAINING = (*NO_FIT, *RATE, *STILL, *BROKEN, *FADED, *WILD, *TREND)
"""All that a training shows which something else has spoilt."""

EXPLAINS: tuple[Explains, ...] = (
    # What is learnt from: nothing comes before the data.
    Explains(
        ("SC1701", "SC0205"),
        (*TRAINING, "SC0102", "SC10", "SC15", "SC16", "SC18", "SC19", "SC20", "SC21", "SC22", "SC2405"),
        "NaN in a sample spoils everything that is trained or judged on it",
    ),
    Explains(
        ("SC1905",),
        (*TRAINING, "SC0102", "SC0302", "SC0304", "SC0307", "SC14", "SC19", "SC1711"),
        "from equal inputs nothing can be told apart",
    ),
    Explains(
        ("SC1707",), (*TRAINING, "SC14", "SC1609", "SC19"), "where one answer is always right inputs do not matter"
    ),
    Explains(
        ("SC1705", "SC1711", "SC1712", "SC1724"),
        (*TRAINING, "SC0102", "SC0112", "SC0307", "SC14", "SC19"),
        "labels that belong to other inputs are noise",
    ),
    Explains(("SC1708", "SC1709", "SC1713"), (*TRAINING, "SC10"), "values of such a size drown what there is to learn"),
    Explains(
        ("SC1704",), (*TRAINING, "SC14"), "batches of one kind pull the model from one constant guess to the next"
    ),
    Explains(("SC1710",), ("SC0611", "SC0613", "SC14"), "what is validated is not what was trained on"),
    Explains(("SC0414",), ("SC2006",), "codes that follow the order of a set are other ones in each process"),
    Explains(("SC1714",), ("SC20",), "a generator that starts anew gives the same numbers"),
    # What is asked for: a loss that is wrong by itself.
    Explains(
        (
            *(
                "SC1603",
                "SC1604",
                "SC1606",
                "SC1609",
                "SC1610",
                "SC1614",
                "SC1615",
                "SC1617",
                "SC1618",
                "SC1619",
                "SC1620",
            ),
            "SC1621",
            "SC1622",
        ),
        (*TRAINING, "SC0102", "SC10", "SC14", "SC19"),
        "what such a loss is least at is not what was meant",
    ),
    Explains(
        ("SC1601", "SC1602", "SC1607", "SC1616"),
        (*TRAINING, "SC10", "SC14"),
        "such a loss has another minimum, or none",
    ),
    Explains(("SC1102",), ("SC18", *TRAINING), "weights that are shared out over samples or heads mix them"),
    Explains(("SC1617",), ("SC1510",), "what is always the same has no gradient to bring"),
    Explains(("SC1803",), ("SC1612",), "a model that sees the next token copies it"),
    Explains(("SC1808",), (*TRAINING, "SC0102", "SC0604", "SC20"), "what comes before a batch is part of its input"),
    Explains(("SC1807",), (*TRAINING, "SC1612"), "a likelihood that is no one has no least value"),
    Explains(("SC1806",), ("SC1903",), "a mask that is not used lets the padding of others show"),
    Explains(
        (
            "SC1804",
            "SC1801",
            "SC1805",
            "SC1901",
            "SC1902",
            "SC1906",
            "SC1907",
            "SC1908",
            "SC1909",
            "SC1910",
            "SC1911",
            "SC1913",
        ),
        ("SC0208", *TRAINING, "SC0102", "SC14", "SC19"),
        "what does not reach the output, or reaches another sample's, cannot be learnt from",
    ),
    Explains(("SC0208",), ("SC0202", "SC0209", *NO_FIT, *RATE, *FADED, "SC13"), "what is thrown away has no effect"),
    # How it is trained: steps that are not those of the gradient.
    Explains(("SC2203",), ("SC1501", *TRAINING), "old gradients are part of each step within the window"),
    Explains(
        ("SC1501", "SC1502", "SC1504", "SC1506", "SC1507", "SC1510", "SC1513", "SC1518", "SC1519", "SC1520", "SC1525"),
        (*TRAINING, "SC2105", "SC24"),
        "such steps do not go where the loss falls",
    ),
    Explains(("SC1517",), (*TRAINING, "SC04", "SC06", "SC10", "SC18", "SC20"), "such layers are random at every call"),
    Explains(("SC1515",), (*TRAINING, "SC06", "SC10", "SC24"), "layers that the model does not list are out of reach"),
    Explains(
        ("SC0112",), (*TRAINING, "SC14", "SC1609", "SC19"), "targets that belong to other inputs are noise to the model"
    ),
    Explains(
        ("SC0113",),
        ("SC0106", *RATE, *FADED, *TREND, "SC14", "SC1902"),
        "what outweighs the predictions in the loss keeps them from being learnt",
    ),
    Explains(("SC1522",), TRAINING, "random features hold little of what there is to learn"),
    Explains(("SC1505", "SC1521"), (*TRAINING, "SC10"), "a layer that stays random spoils what is built on it"),
    Explains(
        ("SC1508", "SC1509", "SC1523"), (*TRAINING, "SC2101"), "steps that are clipped elsewhere are of another size"
    ),
    Explains(("SC2201", "SC2202", "SC2207"), TRAINING, "most of the data is thrown away, or the rate is another"),
    Explains(
        ("SC2101", "SC2102", "SC2103", "SC2104", "SC2105", "SC2106", "SC2107", "SC2108", "SC2109"),
        (*TRAINING, "SC2405"),
        "numbers that are lost in rounding, or overflow, train nothing",
    ),
    Explains(
        ("SC2401", "SC2402", "SC2403", "SC2404", "SC2405", "SC2406", "SC2407", "SC2408", "SC2410"),
        TRAINING,
        "with such options the steps do not follow the gradient",
    ),
    # What is trained: a network that starts, or is built, so that it cannot learn.
    Explains(("SC0104",), ("SC0202", "SC0107", "SC07", "SC09", "SC12"), "without a graph nothing is trained"),
    Explains(
        ("SC1001",), (*NO_FIT, *RATE, "SC07", "SC0903", "SC11"), "units that are all the same have the capacity of one"
    ),
    Explains(("SC0901",), ("SC1004",), "a layer that never fires is the nearer cause, whatever its bias is"),
    Explains(("SC1004",), TRAINING, "a bias that outweighs its inputs hides them"),
    Explains(("SC1002",), TRAINING, "weights that start too large saturate or blow up what comes after"),
    Explains(("SC1003",), TRAINING, "weights that start too small let no signal through"),
    Explains(("SC0803",), ("SC11",), "activations that grow with depth saturate what comes after them"),
    Explains(("SC1101", "SC1103", "SC1104"), TRAINING, "nothing passes where everything is saturated or masked"),
    Explains(("SC0206",), (*TRAINING, "SC10"), "a loss that is not a number trains nothing"),
    Explains(("SC0201",), (*NO_FIT, *RATE, *FADED, "SC08", "SC13"), "an infinite gradient turns the weights into NaN"),
    Explains(("SC0901",), ("SC0209",), "a layer that never fires passes no gradient"),
    Explains(
        ("SC0202", "SC0209", "SC1516"),
        (*NO_FIT, *RATE, "SC0107", *FADED, *TREND, "SC10", "SC1516"),
        "where no gradient comes nothing is learnt",
    ),
    Explains(("SC0207",), (*NO_FIT, *RATE, *FADED), "layers that start at zero and stay there pass no signal"),
    Explains(
        ("SC2301", "SC2302", "SC2303"), (*NO_FIT, "SC0703"), "a network without a bend fits what a single layer fits"
    ),
    Explains(("SC2304",), TRAINING, "a residual that does not depend on the weights cannot be made smaller"),
    # How fast.
    Explains(("SC0107",), (*NO_FIT, *RATE, *FADED, "SC13"), "weights that are never updated learn nothing"),
    Explains(("SC0203",), (*RATE, *FADED, "SC13"), "the clipping is what makes the steps so small"),
    Explains(
        ("SC0803", "SC0801"),
        ("SC0105", *RATE, "SC0110", "SC0204", *FADED, "SC13"),
        "activations and gradients of such a size drown what comes after",
    ),
    Explains(
        ("SC0504", "SC0505", "SC0508", "SC0510", "SC0514", "SC0517", "SC0521", "SC0522"),
        ("SC0107", *RATE, "SC0110", *FADED, "SC13"),
        "the rate is not what was meant",
    ),
    Explains(
        ("SC0901", "SC0701", "SC0702", "SC0706"),
        (*NO_FIT, *RATE, "SC0703", "SC0705", "SC0903", "SC11", "SC13"),
        "layers without signal or gradient cannot fit anything",
    ),
    Explains(("SC0901",), ("SC07",), "a layer that never fires passes neither signal nor gradient"),
    Explains(
        ("SC1201",),
        ("SC0105", "SC0108", "SC0110", "SC0204", "SC0703", "SC0704", "SC0802", "SC0902", "SC0903", "SC11", "SC13"),
        "the same training at a lower rate does not show it",
    ),
    Explains(
        ("SC0802",),
        ("SC0108", "SC0110", "SC0204", "SC07", "SC11", "SC13"),
        "a loss that diverges fits nothing and kills the signal",
    ),
    Explains(
        ("SC1202",), ("SC0109", "SC0110", "SC07", "SC0903", "SC13"), "at this rate nothing can have been learnt yet"
    ),
    Explains(("SC0109",), ("SC0704", "SC13"), "at this rate nothing can have been learnt yet"),
    Explains(("SC0902",), ("SC07", "SC0108", "SC0110", "SC11", "SC13"), "the dead layer is why the signal was lost"),
    Explains(("SC0101",), ("SC0705",), "inputs without effect give the same output for every input"),
    Explains(
        ("SC0705",),
        (*NO_FIT, *RATE, "SC0704", "SC0903", "SC11", "SC13"),
        "what is lost in one layer cannot be learnt from",
    ),
)
"""Earlier lines win, and within a line earlier causes. A cause counts only if it is a failure itself and does not follow
from another."""

RAISED = ("raised", "error")
"""Keys of evidence that hold an exception, as "ValueError: what it says": the user's code raised it because of the fault."""

RAISED_LENGTH = 300
"""Characters by which exceptions are compared: long ones are cut where they are published."""


def fold(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """The results with consequences marked by `follows_from`, in the same order."""
    failed = {f.code for r in results for f in r.findings if f.severity == "fail"}
    found = {f.code for r in results for f in r.findings}
    owner: dict[str, str] = {}
    for cause, effects in ((cause, line.effects) for line in EXPLAINS for cause in line.causes):
        if cause in failed and cause not in owner:
            free = found - {cause, *owner, *owner.values()}
            owner.update({code: cause for code in free if code.startswith(effects)})
    return tuple(_excused(_marked(result, owner), results) for result in results)


def _excused(result: CheckResult, results: Sequence[CheckResult]) -> CheckResult:
    """A check that could not run for an exception that a failed finding has as evidence is a skip."""
    if result.error is None or result.error.blame != "target":
        return result
    said = _without_numbers(result.error.message)
    for finding in (f for r in results for f in r.findings if f.severity == "fail"):
        if any(raised in said for raised in _raised(finding)):
            reason = f"{finding.code} explains what was raised: mend that first, then this check can run"
            status = status_of((), skip_reason=reason)
            return result.model_copy(
                update={"error": None, "skip_reason": reason, "status": status, "summary": "skipped"}
            )
    return result


def _raised(finding: FindingResult) -> Iterator[str]:
    """The exceptions that it has as evidence. A mere type, without a message, may be raised by anything."""
    for key in RAISED:
        text = _without_numbers(str(finding.evidence.get(key) or ""))[:RAISED_LENGTH]
        if re.match(r"[\w.]+: \S", text):
            yield text


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
        reason = f"what it found follows from {causes}: mend that first, then this is judged anew"
    status = status_of(findings, error=result.error, skip_reason=reason)
    return result.model_copy(update={"findings": findings, "skip_reason": reason, "status": status})
