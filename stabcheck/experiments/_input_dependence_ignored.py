"""The part of input-dependence that judges what is ignored while other inputs are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Rule
from stabcheck.reading import is_label_name

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.dependence.subject import Subject

IGNORED_INPUT = Rule(
    "SC1904",
    "input-ignored",
    "warn",
    message="the model is given {name} {shape}, but what it returns does not depend on it",
    fix="use {name} in forward(), or do not pass it",
)
CUT_OFF = Rule(
    "SC1906",
    "main-input-cut-off",
    "fail",
    "the model has weights for {name} {shape}, and neither what it returns nor its loss depends on it, nor does it after {steps} "
    "training steps: {cause}",
    "follow {name} through forward(), from its weights on: a result that is not passed on, a mask or factor of zero, or a "
    "softmax over an axis of length 1",
)
LEFT_OUT = Rule(
    "SC1907",
    "telling-input-left-out",
    "fail",
    "what the model returns does not depend on {what}, which tells {share:.0%} of the variance of the targets beyond what the "
    "inputs in use tell{meant}",
    "use {what} in forward(): look for an index taken from another column, an integer division, a slice, a factor of zero",
)
CONDITION = Rule(
    "SC1908",
    "condition-ignored",
    "fail",
    "the loss draws {name} {shape} anew for every batch and gives it to the model, and what the model returns does not depend on "
    "it{idle}",
    "follow {name} through forward(), to the layers that are meant for it",
)
UNREAD = Rule(
    "SC1909",
    "content-never-read",
    "fail",
    "the model knows how long each {name} is, and not what it says: with all its tokens exchanged for each other it returns "
    "exactly the same",
    "follow {name} through forward(): zeros in its place, a factor of zero, or a mask computed from it and nothing else",
)
NOISE = Rule(
    "SC1910",
    "output-without-input",
    "fail",
    "{output} is compared with each sample's data and depends on none of its inputs: it is made of noise, or of nothing",
    "follow what was to reach {output}, such as the latent vector: noise or zeros of the same shape may have taken its place",
)
COLLAPSED = Rule(
    "SC1911",
    "ids-collapse-before-lookup",
    "fail",
    "{what} has {values} different values in {samples:,} samples, {table} has {rows} rows for them, and of these {ids} {are} ever "
    "looked up: the values are lost before",
    "look at what is made of {what} before it is looked up: an integer division or a modulo by the wrong number, fractions that "
    "are cut to 0 by .long(), a clamp",
)
ZEROED = Rule(
    "SC1913",
    "input-made-zero",
    "fail",
    "what is made of {name} {shape} is zero everywhere, in each of {batches} batches, and {product} multiplies with it: {lost} "
    "makes these zeros, and {name} has no effect",
    "look at that line: an integer division (//) or a cast to integers of fractions, a threshold that nothing passes, a factor "
    "of zero",
)
WORDS = 4
"""Integers per sample from which they are taken for a sequence; up to three may be sizes and numbers of whatever it is."""


def _is_feature(found: Subject, name: str) -> bool:
    """Whether an input is more than a mask, a position, an identifier or a weight for each sample."""
    tensor = found.given(name)
    if (
        name not in found.names
        or is_label_name(name)
        or tensor.dim() < 2
        or bool(((tensor == 0) | (tensor == 1)).all())
    ):
        return False
    # What rises from left to right are positions or offsets.
    text = tensor.dim() == 2 and tensor.shape[1] >= WORDS and bool((tensor.diff(dim=1) < 0).any())
    return tensor.is_floating_point() or text


def of_ignored(bench: Bench, found: Subject, axes: dict[str, int], ignored: list[str]) -> Iterator[Finding]:
    from stabcheck.trial.dependence.effect import doubled
    from stabcheck.trial.dependence.unread import drawn_in_loss, idle_weights
    from stabcheck.trial.dependence.wasted import STEPS, is_heard_by_loss, still_ignored, waste
    from stabcheck.trial.dependence.zeroed import zeroed

    for name in ignored:
        alone, tensor = {name: axes[name]}, found.given(name)
        if is_label_name(name) or is_heard_by_loss(found, alone, doubled(alone)):
            continue
        facts: dict[str, Any] = {"name": name, "shape": tuple(tensor.shape)}
        is_drawn = drawn_in_loss(found, name)
        lost = waste(found, alone) if is_drawn or _is_main(found, axes, ignored, name) else None
        if lost is not None and still_ignored(bench, alone):
            end = "and its result is used nowhere" if lost.unread else "makes of it what does not depend on it"
            facts |= {"steps": STEPS, "cause": f"{lost.op.words} {'is the last of it, ' if lost.unread else ''}{end}"}
            yield CUT_OFF.at(lost.op.module, source=lost.op.line or bench.source(found.session.model), **facts)
        elif is_drawn:
            idle = idle_weights(found)
            waits = (
                f", although {idle} waits for it: it is given the same for all samples, or is not run" if idle else ""
            )
            source = bench.source(found.session.model)
            facts |= {"idle": waits}
            yield CONDITION.at(idle or None, source=source, severity="fail" if idle else "warn", **facts)
        elif (made := zeroed(found, name, axes[name])) is not None and still_ignored(bench, alone):
            facts |= {"batches": made.batches, "product": made.product.words, "lost": made.lost.words}
            yield ZEROED.at(made.lost.module or None, source=made.lost.line, **facts)
        elif _is_feature(found, name):
            yield IGNORED_INPUT.at(None, source=bench.source(found.session.model), **facts)


def _is_main(found: Subject, axes: dict[str, int], ignored: list[str], name: str) -> bool:
    """Whether an input comes first in forward(), or is larger than any that is used."""
    used = [found.given(other).numel() for other in axes if other not in ignored]
    first = bool(found.names) and name == found.names[0]
    return first or found.given(name).numel() > max(used, default=0)


def of_lookups(bench: Bench, found: Subject) -> Iterator[Finding]:
    """SC1911."""
    from stabcheck.trial.dependence.collapsed import collapsed

    one = collapsed(found)
    if one is not None:
        numbers = {"values": one.values, "ids": one.ids, "rows": one.rows, "samples": one.samples}
        source, are = one.line or bench.source(found.session.model), "is" if one.ids == 1 else "are"
        facts: dict[str, Any] = {"what": one.words, "table": one.table, "are": are, **numbers}
        yield COLLAPSED.at(one.table, source=source, **facts)


def of_columns(bench: Bench, found: Subject, axes: dict[str, int], ignored: list[str]) -> Iterator[Finding]:
    """SC1907."""
    from stabcheck.trial.dependence.columns import left_out

    of_inputs = {name: axis for name, axis in axes.items() if not is_label_name(name)}
    one = left_out(found, of_inputs, [name for name in ignored if name in of_inputs])
    if one is None or not one.is_meant:
        return
    meant = f", and {one.table} has a row for each of its values" if one.table else ""
    meant = meant or (f": {one.lost.words} is the last to be given it" if one.lost is not None else "")
    source = (one.lost.line if one.lost is not None else None) or bench.source(found.session.model)
    facts: dict[str, Any] = {
        "what": one.words,
        "share": one.told.share,
        "deviations": one.told.deviations,
        "meant": meant,
    }
    yield LEFT_OUT.at(one.table or None, source=source, **facts)


def of_content(bench: Bench, found: Subject, axes: dict[str, int]) -> Iterator[Finding]:
    """SC1909 and SC1910."""
    from stabcheck.trial.dependence.unread import made_of_noise, unread_content

    source = bench.source(found.session.model)
    if name := unread_content(found):
        yield UNREAD.at(None, source=source, name=name)
    elif output := made_of_noise(found, axes):
        yield NOISE.at(None, source=source, output=output)
