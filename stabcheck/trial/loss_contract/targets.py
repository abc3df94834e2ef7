"""Targets that do not suit the loss, or do not meet its input as they should."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stabcheck.check import Source
from stabcheck.trial.loss_contract.fault import Fault
from stabcheck.trial.loss_contract.watch import BINARY_LOSSES, ELEMENTWISE_LOSSES, SIGN_LOSSES, LossCall, crossed

BEYOND_BINARY = 0.5
"""How far targets of a binary cross-entropy lie outside of 0 to 1 before it counts: some GANs use noisy labels of up to 1.2."""


def out_of_range(call: LossCall) -> Iterator[Fault]:
    """Targets that the loss cannot have, or by which it has no lower end."""
    target = call.target
    if target is None or target.is_complex():
        return
    found = call.used if call.has_indices else call.weighed if call.name in BINARY_LOSSES else target.detach()
    if not found.numel():
        return
    low, high = (float(v) for v in torch.aminmax(found.detach()))
    values = f"{low:g} to {high:g}"
    if call.has_indices and call.input.dim() > 0:
        classes = call.input.shape[call.class_axis]
        if low < 0 or high >= classes:
            yield _outside(call, values, f"0 to {classes - 1}", _renumber(call, low, high, classes))
    elif call.name in BINARY_LOSSES and (low <= -BEYOND_BINARY or high >= 1 + BEYOND_BINARY):
        yield _outside(call, values, "0 to 1, so that the loss has no lower end", "bring the targets to 0 to 1")
    elif call.name in SIGN_LOSSES and low == 0 and high == 1 and bool(((found == 0) | (found == 1)).all()):
        yield _outside(call, "0 and 1", "-1 and 1, so that targets of 0 teach nothing", "pass 2 * targets - 1")
    elif call.name == "poisson_nll_loss" and low < 0:
        yield _outside(call, values, "counts from 0 on", "a squared error suits targets below 0")
    elif call.name == "kl_div" and low < 0 and not call.options.get("log_target"):
        yield _outside(call, values, "probabilities", "pass log_target=True if they are log-probabilities")


def _renumber(call: LossCall, low: float, high: float, classes: int) -> str:
    if high == classes and low >= 1:
        return "they are off by one: subtract 1 from the targets"
    if classes == 1:
        return "one output is for BCEWithLogitsLoss with float targets; for classes give the last layer one output each"
    if low < 0 and high < classes:
        return f"pass ignore_index={low:g} if these are not to count, or number the classes from 0"
    if high in {254, 255}:
        return f"pass ignore_index={high:g} if this marks what is not to count"
    return f"number the classes from 0, or give the last layer {high + 1:g} outputs"


def _outside(call: LossCall, found: str, wanted: str, remedy: str) -> Fault:
    facts = {"loss": call.name, "found": found, "wanted": wanted, "remedy": remedy, "raised": call.error}
    return Fault("targets-out-of-range", call.place, facts)


def of_shapes(call: LossCall) -> Iterator[Fault]:
    """Outputs and targets that are spread over each other."""
    assert call.target is not None
    a, b = call.input, call.target
    if call.name not in ELEMENTWISE_LOSSES or a.dim() == b.dim() or not crossed(a.shape, b.shape):
        return
    if call.reduction != "none" or not call.spread:
        yield crossing_of(f"{call.name}()", tuple(a.shape), tuple(b.shape), call.place)


def crossing_of(where: str, prediction: tuple[int, ...], target: tuple[int, ...], place: Source | None) -> Fault:
    """The fault that a prediction and a target of these shapes make."""
    both = tuple(torch.broadcast_shapes(prediction, target))
    facts = {"where": where, "prediction": prediction, "target": target, "both": both}
    return Fault("outputs-broadcast-to-targets", place, facts)


def swapped(call: LossCall) -> Iterator[Fault]:
    """Outputs in the place of the targets."""
    assert call.target is not None
    if call.name in BINARY_LOSSES and call.target.requires_grad and not call.input.requires_grad:
        yield Fault("swapped-arguments", call.place, {"loss": call.name})


def too_short(call: LossCall) -> Iterator[Fault]:
    """CTC needs a step for each symbol, and one more between two that are equal."""
    assert call.target is not None
    given, wanted = (torch.as_tensor(call.options[k]).flatten().tolist() for k in ("input_lengths", "target_lengths"))
    target = call.target.detach().cpu()
    if bool(call.options.get("zero_infinity")):
        return
    flat = target.dim() == 1
    starts = [sum(wanted[:i]) for i in range(len(wanted))]
    needed = []
    for i, length in enumerate(wanted):
        row = target[starts[i] : starts[i] + length] if flat else target[i, :length]
        needed.append(int(length) + int((row[1:] == row[:-1]).sum()))
    short = [(need, have) for need, have in zip(needed, given, strict=False) if need > have]
    if short:
        need, have = short[0]
        facts = {"count": len(short), "samples": len(wanted), "needed": need, "steps": int(have)}
        yield Fault("ctc-input-too-short", call.place, facts)
