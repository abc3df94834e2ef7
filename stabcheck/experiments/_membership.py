"""The part of training-loop that judges which parameters have an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Source
from stabcheck.reading import called

if TYPE_CHECKING:
    from stabcheck.trial.loop.members import Orphan
    from stabcheck.trial.loop.watched import Watched

MOST_FINDINGS = 5

UNOPTIMIZED = Rule(
    "SC1505",
    "parameters-without-optimizer",
    "fail",
    message="{count} trainable parameter(s) of {at} get a gradient at every step, but no optimizer holds them: {at} keeps "
    "the values it was made with{why}.",
    fix="Add {at}'s parameters to the optimizer, or set requires_grad=False on them if they are meant to stay fixed.",
)
OTHER_TENSORS = Rule(
    "SC1506",
    "optimizer-of-other-tensors",
    "fail",
    message="The optimizer holds {foreign} tensor(s) that get no gradient, {whose}, and not the {count} parameter(s) of {at} "
    "{instead}: {at} is never trained.",
    fix="Build the optimizer last, from the parameters of this very model: after layers were replaced, the model was copied "
    "or rebuilt, and its parts were chosen.",
)
TWICE = Rule(
    "SC1507",
    "parameters-updated-twice",
    "fail",
    message="{count} parameter(s), {location} among them, are updated twice with the same gradient at each step: {how}.",
    fix="{advice}",
)
RULES = (UNOPTIMIZED, OTHER_TENSORS, TWICE)


def judge(seen: Watched, source: Source | None) -> Iterator[Finding]:
    """What is wrong with who owns which parameter."""
    if seen.foreign and (seen.held or seen.foreign_held):
        yield _other_tensors(seen, source)
    elif seen.orphans:
        yield from _without_optimizer(seen, source)
    if seen.loss_parameters:
        yield UNOPTIMIZED.at(
            None,
            source=source,
            severity="warn",
            count=len(seen.loss_parameters),
            at="loss_fn",
            why=f" ({seen.loss_parameters[0]})",
        )
    if seen.doubled:
        yield TWICE.at(
            seen.doubled[0],
            source=source,
            count=len(seen.doubled),
            how="a parameter group lists them twice",
            advice="Give the optimizer each parameter once: list(dict.fromkeys(parameters)) removes tied ones and doubles.",
        )


def _other_tensors(seen: Watched, source: Source | None) -> Finding:
    module = common(seen.foreign)
    return OTHER_TENSORS.at(
        module or None,
        source=source,
        foreign=seen.foreign_held,
        count=len(seen.foreign),
        at=called(module),
        whose="of a layer that the model no longer has" if seen.held else "frozen ones or those of another model",
        instead="that took their place" if seen.held else "that do",
    )


def _without_optimizer(seen: Watched, source: Source | None) -> Iterator[Finding]:
    """A forgotten part is new, and on the way of the gradient to parts that are trained; what is left out on purpose (a
    backbone behind a probe, a base under adapters or prompts) is pretrained, comes first, or is most of the model."""
    is_few = seen.trained_modules > len(seen.orphans)
    for orphan in seen.orphans[:MOST_FINDINGS]:
        is_last = orphan.last and seen.trained_modules >= len(seen.orphans)
        if not orphan.fresh or not (is_few or is_last) or not orphan.whole:
            continue
        if not orphan.downstream and not is_few:
            continue
        yield UNOPTIMIZED.at(
            orphan.module or orphan.parameters[0],
            source=source,
            severity="fail" if orphan.downstream else "warn",
            count=len(orphan.parameters),
            at=called(orphan.module) if orphan.module else orphan.parameters[0],
            why=_why(orphan, seen),
        )


def _why(orphan: Orphan, seen: Watched) -> str:
    where = "behind" if orphan.downstream else "in front of"
    return f", random ones, while {seen.held} parameters {where} it are trained"


def common(names: tuple[str, ...]) -> str:
    """The innermost module that holds all of them."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
