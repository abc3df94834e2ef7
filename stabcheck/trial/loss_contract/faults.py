"""What is wrong with one call of a loss function, by the tensors that it was given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from stabcheck.trial.dependence.torn import torn_axis
from stabcheck.trial.loss_contract import origins, reach, scores
from stabcheck.trial.loss_contract.fault import Fault, shape
from stabcheck.trial.loss_contract.targets import crossing_of, of_shapes, out_of_range, swapped, too_short
from stabcheck.trial.loss_contract.watch import (
    BINARY_LOSSES,
    CLASS_LOSSES,
    ELEMENTWISE_LOSSES,
    LOGIT_LOSSES,
    LOSSES,
    NORMALISERS,
    Crossing,
    LossCall,
)

FEWEST_ROWS = 4
"""Rows that sum to one before an unknown origin is taken for a softmax: one or two may do so by chance."""


def of_crossing(crossing: Crossing) -> Fault:
    """The fault that arithmetic on crossed shapes is."""
    return crossing_of("the subtraction", *crossing.shapes, crossing.place)


def of_call(call: LossCall) -> Fault | None:
    """The first fault that the arguments of a call have; None if they have none."""
    if not call.input.numel() or (call.target is not None and not call.target.numel()):
        return None
    return next(_faults(call), None)


def _faults(call: LossCall) -> Iterator[Fault]:
    if call.error:
        yield from _refused(call)
        return
    yield from out_of_range(call)
    yield from _axis(call)
    yield from _twice(call)
    yield from _scale(call)
    yield from scores.of_call(call)
    yield from reach.of_call(call)
    if call.target is not None:
        yield from of_shapes(call)
        yield from swapped(call)
        if call.name == "ctc_loss":
            yield from too_short(call)


def of_targets(call: LossCall, targets: torch.Tensor) -> Fault | None:
    """The same for other targets in the place of the call's."""
    later = replace(call, target=targets, error="IndexError: Target 0 is out of bounds.")  # as it will be raised
    return next(out_of_range(later), None) if targets.numel() else None


def nothing_left(call: LossCall) -> bool:
    """Whether every target is one that the loss ignores."""
    return call.has_indices and call.target is not None and call.target.numel() > 0 and call.used.numel() == 0


# --- softmax and sigmoid


def _twice(call: LossCall) -> Iterator[Fault]:
    if call.name == "poisson_nll_loss":
        yield from _rates(call)
    if call.name not in LOGIT_LOSSES and call.name not in NORMALISERS:
        return
    made_by, _, _ = origins.origin(call.input)
    by_hand = (
        call.name == "cross_entropy"
        and call.input.requires_grad
        and call.input.numel() >= FEWEST_ROWS * call.input.shape[call.class_axis]
        and made_by not in origins.SCORES
        and made_by not in {"LogSoftmax", "Log"}
        and origins.sums_to_one(call.input, call.class_axis)
    )
    if made_by not in {"Softmax", "Sigmoid", "Tanh"} and not by_hand:
        return
    if made_by == "Tanh" and call.name != "cross_entropy":
        return
    activation = made_by.lower() if made_by in {"Softmax", "Sigmoid", "Tanh"} else "softmax (by hand)"
    twice = made_by != "Tanh"
    yield Fault(
        "activated-twice",
        call.place,
        {"activation": activation, "loss": call.name, "shape": shape(call.input), "effect": _floor(call, activation)},
        "fail" if twice else "warn",
        call.made_by,
    )


def _rates(call: LossCall) -> Iterator[Fault]:
    """Rates where poisson_nll_loss takes their logarithms, and scores where it takes rates."""
    made_by, _, _ = origins.origin(call.input)
    logarithms = bool(call.options.get("log_input", True))
    if logarithms and made_by in {"Exp", "Softplus"}:
        effect = "it cannot tell a rate below 1 (log_input=True makes it exponentiate)"
        facts = {"activation": made_by.lower(), "loss": call.name, "shape": shape(call.input), "effect": effect}
        yield Fault("activated-twice", call.place, facts, None, call.made_by)
    elif not logarithms and made_by in origins.SCORES and bool((call.input < 0).any()):
        remedy = "exp or softplus of them, or pass log_input=True to take them as logarithms"
        yield _wants(call, "raw scores", "rates above 0 (log_input=False)", remedy)


def _floor(call: LossCall, activation: str) -> str:
    """How low the loss can still get on outputs that the activation has squeezed."""
    if call.name in {"cross_entropy", "log_softmax"}:
        axis = call.class_axis if call.name == "cross_entropy" else call.input.dim() - 1
        classes = call.input.shape[axis]
        reach = 2.0 if activation == "tanh" else 1.0
        lowest = math.log1p((classes - 1) * math.exp(-reach))
        return f"with {classes} classes the loss cannot get below {lowest:.3g}, where guessing gives {math.log(classes):.3g}"
    return "no negative can get below a loss of 0.693, which is what guessing gives, and no positive below 0.313"


def _scale(call: LossCall) -> Iterator[Fault]:
    """Scores or probabilities where their logarithms belong."""
    if call.name not in {"nll_loss", "kl_div", "ctc_loss"} or not call.input.requires_grad or call.shiftless:
        return
    axis = call.class_axis if call.name == "nll_loss" else call.input.dim() - 1
    if origins.log_sums_to_one(call.input, axis):
        return
    made_by, _, _ = origins.origin(call.input)
    if made_by in {"Softmax", "Sigmoid"} or origins.sums_to_one(call.input, axis):
        what = "probabilities"
    elif made_by in origins.SCORES or origins.is_without_logarithm(call.input):
        what = "logits"
    else:
        return
    remedy = (
        f"log_softmax(outputs, dim={1 if call.name == 'nll_loss' else -1})"
        if what == "logits"
        else "the logarithm, by log_softmax in place of softmax"
    )
    yield _wants(call, what, "log-probabilities", remedy)


def _wants(call: LossCall, what: str, wanted: str, remedy: str) -> Fault:
    low, high = (float(v) for v in torch.aminmax(call.input.detach().float()))
    facts = {"loss": call.name, "what": what, "low": low, "high": high, "wanted": wanted, "remedy": remedy}
    return Fault("missing-normalisation", call.place, facts)


# --- axes


def _axis(call: LossCall) -> Iterator[Fault]:
    if call.name not in LOSSES or not call.input.requires_grad:
        return
    made_by, node, moved = origins.origin(call.input)
    if made_by == "Log":
        made_by, node, moved = origins.before(node)
    if made_by in {"Softmax", "LogSoftmax"}:
        known = origins.softmax_axis(node)
        if known is not None:
            axis, size = known
            function = "softmax" if made_by == "Softmax" else "log_softmax"
            if size and size[axis] == 1:
                yield _of_one(call, f"{function} over axis {axis} of {size}, which has one element, is always the same")
            elif axis == 0 and len(size) > 1 and not moved and call.input.shape[0] == size[0]:
                yield _wrong_axis(
                    call, f"{function} over axis 0 of {size} lets the samples of a batch compete", "dim=-1"
                )
    if call.name not in CLASS_LOSSES:
        return
    if call.input.dim() > 1 and call.input.shape[1] == 1:
        yield _of_one(call, f"outputs of shape {shape(call.input)} have one class, so that the loss is always 0")
    if call.name == "nll_loss" and not origins.log_sums_to_one(call.input, call.class_axis):
        other = [a for a in range(call.input.dim()) if a != call.class_axis and call.input.shape[a] > 1]
        summed = next((a for a in other if origins.log_sums_to_one(call.input, a)), None)
        if summed is not None:
            yield _wrong_axis(
                call,
                f"the log-probabilities of shape {shape(call.input)} are normalised over axis {summed}, not over the classes "
                f"in axis {call.class_axis}",
                f"dim={call.class_axis}",
            )
    if call.reshaped is not None and _scrambled(call.reshaped, tuple(call.input.shape)):
        yield _wrong_axis(
            call,
            f"{shape(call.input)} was cut from {call.reshaped} without moving the classes to the end first, so that each row "
            "holds one class at neighbouring positions",
            "the end",
        )
    if call.input.dim() > 2 and call.input.shape[1] == call.input.shape[-1] and not moved:
        yield from _by_chance(call)


def _scrambled(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether (samples, classes, positions...) was reshaped to (rows, classes)."""
    if len(before) < 3 or len(after) != 2 or before[1] != after[1] or after[0] % before[0]:
        return False
    return torn_axis(before[1:], (after[0] // before[0], after[1])) is not None


def _by_chance(call: LossCall) -> Iterator[Fault]:
    """A linear layer puts its classes last; the loss looks for them in axis 1, and finds as many positions there."""
    made_by, node, moved = origins.origin(call.input)
    if made_by == "LogSoftmax":
        made_by, node, moved = origins.before(node)
    try:
        features = int(node._saved_mat2_sym_sizes[-1]) if made_by in {"Addmm", "Mm"} else None
    except (AttributeError, RuntimeError):
        return
    if features == call.input.shape[-1] and not moved:
        what = f"the classes are in the last axis of {shape(call.input)}, as the linear layer put them"
        yield _wrong_axis(call, f"{what}, but the loss takes axis 1, which happens to be as long", "axis 1")


def _wrong_axis(call: LossCall, what: str, wanted: str) -> Fault:
    remedy = {
        "axis 1": "move the classes to axis 1, outputs.transpose(1, -1), or flatten both: outputs.flatten(0, -2), "
        "targets.flatten()",
        "the end": "move the classes to the end before flattening, outputs.movedim(1, -1).flatten(0, -2), or give the loss "
        "the outputs and targets as they are",
    }.get(wanted, f"normalise over the classes: {wanted}")
    return Fault("wrong-class-axis", call.place, {"loss": call.name, "what": what, "remedy": remedy})


def _of_one(call: LossCall, what: str) -> Fault:
    remedy = "for one output use BCEWithLogitsLoss without an activation, for classes as many outputs as there are"
    return Fault("wrong-class-axis", call.place, {"loss": call.name, "what": what, "remedy": remedy})


# --- calls that raised


def _refused(call: LossCall) -> Iterator[Fault]:
    """Why a loss function refused its arguments, where that is known."""
    if call.target is None:
        return
    a, b = call.input, call.target
    classes_last = call.name in CLASS_LOSSES and a.dim() > 2 and b.shape == a.shape[:-1]
    if not classes_last or b.shape == a.shape[:1] + a.shape[2:]:
        yield from out_of_range(call)
    if call.name == "binary_cross_entropy" and bool(torch.isfinite(a).all()) and a.shape == b.shape:
        if float(a.min()) < 0 or float(a.max()) > 1:
            yield _wants(call, "logits", "probabilities", "BCEWithLogitsLoss, which applies its own sigmoid")
    elif call.name in CLASS_LOSSES:
        if classes_last:
            what = f"the classes are in the last axis of {shape(a)}, but the loss takes axis 1"
            yield Fault(
                "wrong-class-axis", call.place, {**_wrong_axis(call, what, "axis 1").facts, "raised": call.error}
            )
        elif b.shape == a.shape and not b.is_floating_point():
            yield _unfit(
                call, "one-hot targets of integers", "pass class numbers, targets.argmax(1), or targets.float()"
            )
        elif b.numel() * a.shape[call.class_axis] == a.numel() and b.dim() == a.dim():
            yield _unfit(call, "class numbers with an axis too many", "squeeze the targets: targets.squeeze(1)")
        elif b.is_floating_point() and b.dim() == a.dim() - 1:
            yield _unfit(
                call, "class numbers as floats", "pass targets.long(), or a regression loss if they are no classes"
            )
    elif call.name in {*BINARY_LOSSES, *ELEMENTWISE_LOSSES} and a.shape != b.shape:
        yield _unfit(call, "another shape", "bring outputs and targets to one shape, with squeeze() or unsqueeze()")


def _unfit(call: LossCall, what: str, remedy: str) -> Fault:
    assert call.target is not None
    facts = {
        "loss": call.name, "what": what, "outputs": tuple(call.input.shape), "targets": tuple(call.target.shape),
        "dtype": str(call.target.dtype).removeprefix("torch."), "remedy": remedy, "raised": call.error,
    }  # fmt: skip
    return Fault("malformed-targets", call.place, facts)
