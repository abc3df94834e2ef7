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

from stabcheck.check import INSTALLED, Check, Outcome
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
from stabcheck.userland import UserCodeError, clean

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
    """This catalogue, and after it the checks of installed packages by name. One that cannot be had is there too, under the
    name of its entry, and says why when it is run: a run that leaves it out needs nothing of it.
    """
    checks = list(CATALOG)
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist else entry.value
        where = f"the check {entry.name!r} of {package}"
        try:
            check = entry.load()
            problem = wrong_with(check, checks)
        except Exception as error:  # it is not our code
            problem = f"cannot be imported: {type(error).__name__}: {error}"
        if problem:
            taken = any(other.id == entry.name for other in checks)
            check = broken(f"{package}:{entry.name}" if taken else entry.name, clean(f"{where} {problem}"))
        checks.append(check)
    return tuple(checks)


def broken(id: str, problem: str) -> Check:
    """A check in place of one that cannot be had: a diagnosis, as those run in this process, where the entry was loaded."""

    def run(_: object) -> Outcome:
        raise UserCodeError(INSTALLED, problem)

    doc = f"Cannot be run: {problem}.\n\n## What to do\nMend or remove the package, or leave the check out: --ignore {id}."
    return Check(id=id, kind="diagnosis", title="Cannot be run", rules=(), run=run, doc=doc, needs_trial=True)


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
