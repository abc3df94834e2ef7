"""Outputs of a bounded activation that cannot become what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch.nn import functional as F

from stabcheck.trial.loss_contract import origins
from stabcheck.trial.loss_contract.fault import Fault, shape
from stabcheck.trial.loss_contract.watch import BINARY_LOSSES, LossCall

BOUNDS = {
    "Relu": (0.0, math.inf), "Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softplus": (0.0, math.inf),
    "Softmax": (0.0, 1.0), "Exp": (0.0, math.inf), "Hardsigmoid": (0.0, 1.0),
}  # fmt: skip
"""What an activation can put out."""
DISTANCES: dict[str, Any] = {
    "mse_loss": F.mse_loss, "l1_loss": F.l1_loss, "smooth_l1_loss": F.smooth_l1_loss, "huber_loss": F.huber_loss,
}  # fmt: skip
SHARE = 0.1
"""Share of the targets, and of the loss of the best constant guess that no output can remove, from which on they are out of
reach. Pixels that rounding or noise puts a little outside of a sigmoid leave 1e-3 and less; half of standardised targets below
a ReLU leaves about 0.5, a third of them outside of a tanh 0.2 to 0.3."""


def of_call(call: LossCall) -> Iterator[Fault]:
    """Targets that no output can reach, and logits that cannot be negative."""
    made_by, _, _ = origins.origin(call.input)
    if made_by not in BOUNDS or not call.input.requires_grad:
        return
    facts: dict[str, Any] = {"activation": made_by.lower(), "loss": call.name, "shape": shape(call.input)}
    if made_by == "Relu" and call.name == BINARY_LOSSES[1]:
        effect = "a negative one cannot be told with a probability below 0.5"
    elif made_by == "Relu" and call.name == "cross_entropy":
        off = float((call.input.detach() <= 0).float().mean())
        effect = f"{off:.0%} of the logits are cut off at 0, where no gradient brings them back"
    elif call.name in DISTANCES and call.target is not None and not call.target.requires_grad:
        effect = _out_of_reach(call, *BOUNDS[made_by])
    else:
        return
    if effect:
        yield Fault("outputs-cannot-reach-targets", call.place, facts | {"effect": effect}, None, call.made_by)


def _out_of_reach(call: LossCall, low: float, high: float) -> str:
    """What is left of the loss when each output is as near to its target as it can be; "" if that is next to nothing."""
    assert call.target is not None
    target = call.target.detach().double()
    if target.shape != call.input.shape or len(target) < 2 or not bool(target.isfinite().all()):
        return ""
    distance = DISTANCES[call.name]
    beyond = float(((target < low) | (target > high)).double().mean())
    left = float(distance(target.clamp(low, high), target))
    guess = float(distance(target.mean(dim=0, keepdim=True).expand_as(target), target))
    if left <= SHARE * guess or beyond <= SHARE:  # a few targets far off are outliers of the data
        return ""
    bounds = f"below {low:g}" if math.isinf(high) else f"outside of {low:g} to {high:g}"
    against = f"so the loss cannot get below {left:.3g}, where a constant guess has {guess:.3g}"
    return f"{beyond:.0%} of the targets lie {bounds}, {against}"
