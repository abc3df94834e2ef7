"""The table of all checks, in the order in which they are reported.

It is a value: other catalogues can be made from it and handed to the engine. A new check is one file in
`diagnoses/` or `experiments/` and one line here. Codes are SC, two digits for the check, two for the
rule; a code that is given up moves to RETIRED and is never used again.

Checks of other packages come after these: `everything` adds those that are published under the entry-point group GROUP.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re

from stabcheck.check import Check
from stabcheck.diagnoses.dying_relu import CHECK as DYING_RELU
from stabcheck.diagnoses.exploding_gradients import CHECK as EXPLODING_GRADIENTS
from stabcheck.diagnoses.gradient_norms import CHECK as GRADIENT_NORMS
from stabcheck.diagnoses.loss_trend import CHECK as LOSS_TREND
from stabcheck.diagnoses.vanishing_gradients import CHECK as VANISHING_GRADIENTS
from stabcheck.experiments.activation_saturation import CHECK as ACTIVATION_SATURATION
from stabcheck.experiments.batch_independence import CHECK as BATCH_INDEPENDENCE
from stabcheck.experiments.checkpoint_resume import CHECK as CHECKPOINT_RESUME
from stabcheck.experiments.clean_split import CHECK as CLEAN_SPLIT
from stabcheck.experiments.data_health import CHECK as DATA_HEALTH
from stabcheck.experiments.determinism import CHECK as DETERMINISM
from stabcheck.experiments.eval_mode import CHECK as EVAL_MODE
from stabcheck.experiments.gradient_accumulation import CHECK as GRADIENT_ACCUMULATION
from stabcheck.experiments.initialization import CHECK as INITIALIZATION
from stabcheck.experiments.input_dependence import CHECK as INPUT_DEPENDENCE
from stabcheck.experiments.learning_rate import CHECK as LEARNING_RATE
from stabcheck.experiments.linear_collapse import CHECK as LINEAR_COLLAPSE
from stabcheck.experiments.loss_contract import CHECK as LOSS_CONTRACT
from stabcheck.experiments.lr_schedule import CHECK as LR_SCHEDULE
from stabcheck.experiments.one_batch_overfit import CHECK as ONE_BATCH_OVERFIT
from stabcheck.experiments.optimizer_config import CHECK as OPTIMIZER_CONFIG
from stabcheck.experiments.overfitting import CHECK as OVERFITTING
from stabcheck.experiments.precision import CHECK as PRECISION
from stabcheck.experiments.training_loop import CHECK as TRAINING_LOOP
from stabcheck.userland import UsageError

CATALOG: tuple[Check, ...] = (
    ONE_BATCH_OVERFIT,
    GRADIENT_NORMS,
    CLEAN_SPLIT,
    CHECKPOINT_RESUME,
    LR_SCHEDULE,
    EVAL_MODE,
    VANISHING_GRADIENTS,
    EXPLODING_GRADIENTS,
    DYING_RELU,
    INITIALIZATION,
    ACTIVATION_SATURATION,
    LEARNING_RATE,
    LOSS_TREND,
    OVERFITTING,
    TRAINING_LOOP,
    LOSS_CONTRACT,
    DATA_HEALTH,
    BATCH_INDEPENDENCE,
    INPUT_DEPENDENCE,
    DETERMINISM,
    PRECISION,
    GRADIENT_ACCUMULATION,
    LINEAR_COLLAPSE,
    OPTIMIZER_CONFIG,
)

RETIRED: dict[str, str] = {"SC1706": "SC1905"}
"""Code -> the code that took its place, or "" for none."""

GROUP = "stabcheck.checks"
"""Entry-point group of checks by others: each entry is a `Check`."""


@functools.cache
def everything() -> tuple[Check, ...]:
    """This catalogue, and after it the checks of installed packages by name.

    Raises:
        UsageError: one of them cannot be imported, is no Check, or takes an id or a code that is not its own.
    """
    checks = list(CATALOG)
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        where = f"the check {entry.name!r} of {entry.dist.name if entry.dist else entry.value}"
        try:
            check = entry.load()
        except Exception as error:  # it is not our code
            raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
        if problem := wrong_with(check, checks):
            raise UsageError(f"{where} {problem}")
        checks.append(check)
    return tuple(checks)


def wrong_with(check: object, others: list[Check]) -> str:
    """Why `check` cannot stand beside `others`; empty if it can."""
    if not isinstance(check, Check):
        return f"is a {type(check).__name__}, not a Check"
    if any(check.id == other.id for other in others):
        return f"takes the id {check.id!r}, which is taken"
    taken = {rule.code for other in others for rule in other.rules}
    for rule in check.rules:
        if not re.fullmatch(r"[A-Z]{2,8}\d{4}", rule.code) or rule.code.startswith("SC"):
            return f"has the code {rule.code!r}: give two to eight capital letters that are your own, and four digits"
        if rule.code in taken:
            return f"takes the code {rule.code}, which is taken"
    return ""
