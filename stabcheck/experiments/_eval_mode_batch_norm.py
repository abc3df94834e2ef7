"""The part of eval-mode that judges BatchNorm: does it compute in eval mode what it computes in training?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Rule
from stabcheck.reading import called
from stabcheck.stats import mean

if TYPE_CHECKING:
    from stabcheck.trial.validation.batch_norm import BatchNormReport

LEARNT = 0.1
"""Share of its initial value by which training must have lowered the loss, for the modes to be compared against that."""

UNDONE = 0.25
"""Share of the loss reduction that eval mode undoes, from which BatchNorm is suspected. In 333 healthy runs (CNN, ResNet, MLP;
SGD, Adam; batches of 16 and 64; learnable and random labels; 3 seeds) it was at most 0.09."""

MIXED = 0.15
"""The same where one BatchNorm is known to serve several places: 0.22 to 0.48 there, and after 300 steps an accuracy of 17
and 78% in eval mode where batch statistics give 98%."""

MIN_VALUES = 16
"""Values per channel below which batch statistics are too noisy to be the yardstick: with 2 to 4 samples they favour
training mode by up to 0.6 although eval mode is as good in the end (86.6% against 86.9% accuracy)."""

RUINED = 0.5
"""Share from which a too small momentum fails. A prediction of 0.54 to 0.60 (momentum 0.01, 300 planned steps, ResNet) came
true as 60 to 88% accuracy instead of 98%; one of 0.4 as 96%."""

USUAL_MOMENTUM = 0.1
"""torch's default; no momentum from here up can be too small."""

UNSTEADY = 0.08
"""Share of the loss reduction that a too large momentum may cost. Measured 80 to 160 steps into training with momentum 0.5
to 0.99 and last batches of 3 to 64 (MLP, CNN, ResNet; 3 seeds): from 0.09 on the accuracy fell by 7 to 39 points, up to
0.06 by at most 5."""

DISAGREES = Rule(
    "SC0613",
    "batch-norm-disagrees-with-itself",
    "warn",
    message="eval mode undoes {share:.0%} of what was learnt: on the same training batches the loss is {trained:.4g} with the "
    "statistics of the batch, {averaged:.4g} with statistics averaged over many, and was {at_start:.4g} at the start; {cause}",
    fix="{advice}",
    why="Validation and inference use the running statistics: the model that is used is worse than the one that was trained.",
)
MOMENTUM = Rule(
    "SC0614",
    "batch-norm-momentum",
    "fail",
    message="momentum={momentum:g} of {at}{more}: {how}, and with those the loss in eval mode is {loss:.4g} where good "
    "statistics give {averaged:.4g} (at the start: {at_start:.4g})",
    fix="use momentum=0.1; in torch it is the weight of the new batch: Keras' 0.99 is torch's 0.01",
    why="Validation and inference use the running statistics: the model that is used is worse than the one that was trained.",
)


RULES = (DISAGREES, MOMENTUM)


def judge(bn: BatchNormReport, kinds: Mapping[str, str]) -> Iterator[Finding]:
    """What is wrong with the BatchNorm layers, if training has taught the net something to compare with;
    `kinds` are the classes of modules whose paths are numbers."""
    learnt = bn.at_start - bn.trained
    if not learnt > LEARNT * abs(bn.at_start):
        return
    levels: dict[str, Any] = {"trained": bn.trained, "averaged": bn.averaged, "at_start": bn.at_start}
    shared = next((name for name, uses in bn.uses.items() if uses > 1), None)
    share = mean(bn.gaps) / learnt
    if bn.values >= MIN_VALUES and share > (MIXED if shared else UNDONE) and _clear(bn.gaps):
        yield _disagreement(bn, shared, share, levels, kinds)
    elif bn.erratic is not None and bn.erratic - bn.averaged > UNSTEADY * learnt:
        layer = max(bn.momentum, key=lambda name: bn.momentum[name] or 0.0)
        how = "the running statistics are little more than those of the last batch"
        # A network of a public library is published with momentum 0.997 and 0.11 undone: worth knowing, no reason to stop.
        yield _momentum(bn, layer, how, bn.erratic, levels, kinds, mild=bn.erratic - bn.averaged <= UNDONE * learnt)
    elif bn.at_end is not None and bn.at_end - bn.averaged > UNDONE * learnt:
        layer = max(bn.left, key=lambda name: bn.left[name])
        how = (
            f"at the end of the run {bn.left[layer]:.0%} of the running statistics will still be their initial 0 and 1"
        )
        if (bn.momentum[layer] or 0.0) < USUAL_MOMENTUM:
            yield _momentum(bn, layer, how, bn.at_end, levels, kinds, mild=bn.at_end - bn.averaged <= RUINED * learnt)
    elif bn.at_end is not None and any(momentum == 0 for momentum in bn.momentum.values()):
        # Statistics that came with the weights may be kept so; those of a new layer were never any data's.
        for layer in [name for name, momentum in bn.momentum.items() if momentum == 0 and bn.left[name] == 1][:1]:
            how = "the running statistics never move from their initial 0 and 1, whatever the data"
            yield _momentum(bn, layer, how, bn.at_end, levels, kinds, mild=True)


def _disagreement(
    bn: BatchNormReport, shared: str | None, share: float, levels: dict[str, Any], kinds: Mapping[str, str]
) -> Finding:
    if shared is None:
        cause = "the batches differ from each other more than chance explains"
        advice = "shuffle the training data, or use GroupNorm or LayerNorm, which know no modes"
        return DISAGREES.at(None, share=share, cause=cause, advice=advice, **levels)
    cause = (
        f"{called(shared, kinds)} is used {bn.uses[shared]} times in one forward, on different distributions, and keeps running "
        "statistics of their mixture only"
    )
    return DISAGREES.at(
        shared, severity="fail", share=share, cause=cause, advice="give each place a BatchNorm of its own", **levels
    )


def _momentum(
    bn: BatchNormReport,
    layer: str,
    how: str,
    loss: float,
    levels: dict[str, Any],
    kinds: Mapping[str, str],
    *,
    mild: bool = False,
) -> Finding:
    alike = sum(momentum == bn.momentum[layer] for momentum in bn.momentum.values())
    return MOMENTUM.at(
        layer,
        at=called(layer, kinds),
        severity="warn" if mild else "fail",
        momentum=bn.momentum[layer],
        more=f" and {alike - 1} more" if alike > 1 else "",
        how=how,
        loss=loss,
        **levels,
    )


def _clear(gaps: tuple[float, ...]) -> bool:
    """Whether the mean of paired differences is more than three standard errors above zero."""
    centre = mean(gaps)
    spread = math.sqrt(sum((gap - centre) ** 2 for gap in gaps) / max(1, len(gaps) - 1))
    return centre > 3 * spread / math.sqrt(len(gaps))


def levels(bn: BatchNormReport) -> dict[str, Any]:
    """The losses that were compared, for the report."""
    return {
        "layers": len(bn.momentum),
        "loss_before_training": bn.at_start,
        "loss_with_batch_statistics": bn.trained,
        "loss_with_averaged_statistics": bn.averaged,
        "loss_after_last_batch": bn.erratic,
        "loss_at_end_of_run": bn.at_end,
    }
