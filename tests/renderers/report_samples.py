"""Hand-made reports for the renderers: one of each kind that a person meets."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from stabcheck.check import Check, Outcome, Rule
from stabcheck.report import (
    CheckError,
    CheckResult,
    FindingResult,
    NotCheckedResult,
    Report,
    SourceLine,
    overall,
    status_of,
)

ENVIRONMENT = {"stabcheck": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "device": "cpu", "seed": 0}

VANISHING = Rule("SC0701", "vanishing-gradients", "fail", message="{count}", fix="{count}")
DYING = Rule("SC0901", "dead-units", "fail", message="{count}", fix="{count}")

DOC = """Gradients that shrink on their way to the first layers.

## What it looks at
The norm of the gradient at each layer.

## Why it matters
Layers whose gradient is ten thousand times smaller than that of the last layer do not learn in the time
you have, however `long` the run is.

A second paragraph that the report leaves to `explain`.

## What to do
Use residual connections or normalisation.
"""


def _never(_: object) -> Outcome:
    raise AssertionError("a renderer runs no check")


CATALOG = (
    Check("vanishing-gradients", "diagnosis", "Vanishing gradients", (VANISHING,), _never, DOC),
    Check("dying-relu", "diagnosis", "Dying ReLU", (DYING,), _never, DOC.replace("Gradients that shrink", "Units")),
)


def report_of(
    *checks: CheckResult, not_checked: tuple[NotCheckedResult, ...] = (), target: str = "train.py:setup"
) -> Report:
    """A report with its derived fields filled in."""
    counts: Any = dict.fromkeys(("pass", "warn", "fail", "skip", "error"), 0) | Counter(c.status for c in checks)
    return Report(
        status=overall(checks),
        target=target,
        environment=ENVIRONMENT,
        counts=counts,
        checks=checks,
        not_checked=not_checked,
    )


def result(id: str, summary: str = "", *findings: FindingResult, **rest: Any) -> CheckResult:
    """One check's result, its status derived."""
    status = status_of(findings, error=rest.get("error"), skip_reason=rest.get("skip_reason"))
    return CheckResult(id=id, status=status, summary=summary, findings=findings, **rest)


def schedule() -> CheckResult:
    """Warm-up, then a cosine, the same for two groups."""
    steps = [round(i * 9765 / 99) for i in range(100)]
    rates = [3e-4 * (s / 500 if s < 500 else 0.5 * (1 + math.cos(math.pi * (s - 500) / 9265))) for s in steps]
    measurements = {"planned_steps": 9765, "steps": steps, "rates": [rates, rates]}
    return result(
        "lr-schedule",
        "warms up to 3e-4 by step 500, then a cosine to 0 at step 9765",
        measurements=measurements,
        duration_s=0.31,
    )


def gradients(layers: int = 4, shrink: float = 0.5) -> CheckResult:
    """Norms that shrink from each layer to the one before it."""
    total = [1.5 + math.sin(i / 4) for i in range(40)]
    parameters = []
    for layer in range(layers):
        for kind, factor in (("weight", 1.0), ("bias", 0.2)):
            size = factor * shrink ** (layers - layer)
            row = {
                "first": size * 1.4,
                "median": size,
                "max": size * 2.2,
                "last": size * 0.8,
                "clipped_median": size * 0.7,
            }
            parameters.append({"name": f"encoder.layers.{layer}.{kind}", **row})
    measurements = {
        "steps": list(range(40)),
        "total": total,
        "clipped": [min(1.0, t) for t in total],
        "parameters": parameters,
    }
    return result(
        "gradient-norms", "norm 1.5, clipped to 1 in 31 of 40 steps", measurements=measurements, duration_s=0.002
    )


def one_batch(*findings: FindingResult) -> CheckResult:
    """A loss that falls with our optimizer and stays with the user's."""
    ours = [0.01 + 2.3 * math.exp(-i / 12) for i in range(100)]
    theirs = [2.2 + 0.1 * math.exp(-i / 12) for i in range(100)]
    measurements = {
        "curves": {"stabcheck's Adam": ours, "your optimizer": theirs},
        "constant": 2.302,
        "oracle": 0.0,
    }
    return result(
        "one-batch-overfit", "loss 2.3 to 2.2 in 100 steps", *findings, measurements=measurements, duration_s=4.2
    )


def passing() -> Report:
    """Nothing found, one check skipped."""
    return report_of(
        result("one-batch-overfit", "loss 2.3 to 0.01 in 100 steps on one batch", duration_s=4.2),
        gradients(),
        result("clean-split", skip_reason="no val_loader given: add 'val_loader' to the set-up"),
        result("checkpoint-resume", "save, load and 3 more steps give the same weights to the bit", duration_s=2.4),
        schedule(),
        result("dying-relu", "2 of 512 units stayed at zero for 40 steps", duration_s=0.001),
        not_checked=(NotCheckedResult(what="planned length", why="neither max_steps nor max_epochs given"),),
    )


def failing() -> Report:
    """A root cause, what follows from it, an unrelated warning and pictures of all three kinds."""
    vanishing = FindingResult(
        code="SC0701",
        severity="fail",
        message="The gradient at encoder.layers.0 is 3.1e-07 of that at head: the first 3 of 12 layers do not learn.",
        location="encoder.layers.0",
        source=SourceLine(file="/home/ada/project/models/encoder.py", line=42),
        fix="Add residual connections or a normalisation layer, or initialise with nn.init.kaiming_normal_.",
        evidence={"ratio": 3.1e-7, "layers": 12, "stuck": ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"]},
    )
    dead = FindingResult(
        code="SC0901",
        severity="fail",
        message="61 of 64 units never fired in 40 steps.",
        location="encoder.layers.1.act",
        fix="Lower the learning rate.",
        follows_from="SC0701",
    )
    leak = FindingResult(
        code="SC0301",
        severity="warn",
        message="12 of 1000 validation samples are also in the training set.",
        source=SourceLine(file="/home/ada/project/data.py", line=7),
        fix="Remove the duplicates before you split.",
        evidence={"count": 12, "share": 0.012, "example": {"train": 3, "val": 17}},
    )
    stuck = FindingResult(
        code="SC0101",
        severity="fail",
        message="With your optimizer the loss of one batch only went from 2.3 to 2.2 in 100 steps; with Adam at 1e-3 to 0.01.",
        fix="Raise the learning rate: 1e-6 is too small for this model.",
        evidence={"lr": 1e-6},
        follows_from=None,
    )
    return report_of(
        one_batch(stuck),
        gradients(layers=12, shrink=0.26),
        result("clean-split", "12 of 1000 validation samples are also in training", leak, duration_s=1.9),
        result("checkpoint-resume", skip_reason="no save and load given: add 'save' and 'load' to the set-up"),
        schedule(),
        result("vanishing-gradients", "3 of 12 layers get almost no gradient", vanishing, duration_s=0.004),
        result(
            "dying-relu",
            "61 of 64 units of encoder.layers.1.act are dead",
            dead,
            skip_reason="what it found follows from SC0701: mend that first, then this is judged anew",
            duration_s=0.001,
        ),
        not_checked=(NotCheckedResult(what="groups across the split", why="no group_key given"),),
    )


def broken() -> Report:
    """A check that the user's code broke and one that we broke."""
    theirs = CheckError(
        blame="target",
        stage="val_loader",
        message="KeyError: 'label'",
        traceback="Traceback (most recent call last):\n"
        + "".join(f'  File "/home/ada/project/data.py", line {n}, in step_{n}\n    call()\n' for n in range(12))
        + "KeyError: 'label'\n",
    )
    ours = CheckError(
        blame="stabcheck", stage="lr-schedule", message="ZeroDivisionError: division by zero", traceback="Traceback"
    )
    return report_of(
        result("one-batch-overfit", "loss 2.3 to 0.01 in 100 steps on one batch", duration_s=4.2),
        result("clean-split", error=theirs, duration_s=0.1),
        result("lr-schedule", error=ours),
    )


def hostile() -> Report:
    """Everything that a stranger's strings can do to a terminal."""
    nasty = "[bold]x[/bold] [/] [link=file:///etc]y\x1b[31mred\x07\r\nnext\u202eback \udc80 日本語 é\t:smile:"
    long = "module_" + "very_" * 60 + "long.weight"
    finding = FindingResult(
        code="SC0701",
        severity="fail",
        message=nasty,
        location=long,
        fix=nasty,
        source=SourceLine(file=f"/tmp/{nasty}.py", line=1),
        evidence={nasty: nasty, "list": [nasty] * 9, "nan": math.nan, "strings": {"NaN": "NaN"}},
    )
    return report_of(
        result("vanishing-gradients", nasty, finding, duration_s=math.nan),
        result(
            "gradient-norms",
            long,
            measurements={
                "total": ["NaN", math.inf, None, 1e300, 0.0],
                "parameters": [{"name": long, "median": "NaN"}, {"name": nasty, "median": 1e-30, "max": "Infinity"}],
            },
        ),
        not_checked=(NotCheckedResult(what=nasty, why=long),),
        target=nasty,
    )
