"""The table of all checks, in the order in which they are reported.

It is a value: other catalogues can be made from it and handed to the engine. A new check is one file in
`diagnoses/` or `experiments/` and one line here. Codes are SC, two digits for the check, two for the
rule; a code that is given up moves to RETIRED and is never used again.
"""

from __future__ import annotations

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

RETIRED: dict[str, str] = {}
"""Code -> the code that took its place, or "" for none."""
