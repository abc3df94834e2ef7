"""Inputs, masks or tokens that do not reach what the model returns.

## What it looks at
The model's call on a training batch is repeated with other samples' content in the place of its inputs, all at once and one
by one, in eval and in training mode, weights and every generator held. What changes nothing to the last bit is ignored; every
operation of the forward is then compared to find the one that drops it. Gates that start at zero are opened first; where a
dead or saturated activation ends the signal, or it shrinks until rounding swallows it, other checks speak. An input that the
model spends weights on in vain is looked at again after a few training steps; what is left out of a table, or of the arguments,
is looked at for what it tells about the targets that nothing in use tells; one of which zeros are made that something is
multiplied with, over several batches. The ids that embeddings are given are counted beside
the values that they are computed from. In padded sequences the embeddings of the
padding, and those of everything else, are disturbed in turn. Over several batches, inputs are looked at for being all alike;
where the model's call cannot be seen, the batches themselves are.

## Why it matters
A model that does not see its inputs learns the average of its targets: the loss falls at first, then stays, and nothing is
raised. An inverted padding mask hides the text and shows the padding; a mask that is passed on to nobody lets results depend on
how long the longest sample of the batch is.

## What to do
Follow the named input through `forward()`. PyTorch's `key_padding_mask` is True at padding, an additive mask is -inf there;
Hugging Face's `attention_mask` is 1 at what is to be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Skip, experiment
from stabcheck.experiments._input_dependence_ignored import (
    COLLAPSED,
    CONDITION,
    CUT_OFF,
    IGNORED_INPUT,
    LEFT_OUT,
    NOISE,
    UNREAD,
    ZEROED,
    of_columns,
    of_content,
    of_ignored,
    of_lookups,
)
from stabcheck.reading import is_label_name

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.dependence.constant_inputs import Alike
    from stabcheck.trial.dependence.difference import Outputs
    from stabcheck.trial.dependence.subject import Subject
    from stabcheck.trial.session import Session

UNUSED = Rule(
    "SC1901",
    "inputs-never-reach-output",
    "fail",
    message="with all of its inputs ({names}) exchanged between samples the model returns exactly the same{cause}",
    fix="{remedy}",
)
INVERTED = Rule(
    "SC1902",
    "padding-mask-inverted",
    "fail",
    message="{output} of a padded sample depends on the padding of {name} (by {from_padding:.2g} of its size) and not at "
    "all on what stands between the first and the last token: the padding is seen and the rest is hidden",
    fix="invert the mask: key_padding_mask is True where there is padding, Hugging Face's attention_mask is 1 where "
    "there is none",
    why="The model reads the padding and not the text.",
)
IGNORED_MASK = Rule(
    "SC1903",
    "padding-mask-ignored",
    "warn",
    message="{masks} changes nothing, while {output} depends on the padding of {name} (by {from_padding:.2g} of its "
    "size; on the rest by {from_real:.2g}): a sample's result depends on how far it was padded",
    fix="use {masks} in forward(): in attention, in pooling, or to pack the sequences",
    why="The result for a sample depends on how long the longest one of its batch is.",
)
ALIKE = Rule(
    "SC1905",
    "identical-inputs",
    "fail",
    message="in {batches} batches ({samples} samples) every {what} of {name} is {value}: nothing tells the samples apart",
    fix="look at how the inputs are made: a vocabulary in which no word is found, a wrong column, a transform that "
    "erases them",
)
SEEN = 0.1
"""Reaction to the padding over that to the rest from which an ignored mask is worth a warning: a convolution that looks across
the border of a long text into its padding is none."""
BATCHES = 3
"""Batches that must all show equal inputs."""
ENOUGH = 8
"""Samples from which equal inputs are no chance."""


RULES = (
    UNUSED,
    INVERTED,
    IGNORED_MASK,
    IGNORED_INPUT,
    ALIKE,
    CUT_OFF,
    LEFT_OUT,
    CONDITION,
    UNREAD,
    NOISE,
    COLLAPSED,
    ZEROED,
)


@experiment(title="Inputs matter", about=("model",), rules=RULES)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Exchange the inputs, and disturb the padding."""
    from stabcheck.trial.dependence.blank_batches import blank
    from stabcheck.trial.dependence.subject import subject

    try:
        with subject(bench) as found:
            return _judged(bench, found)
    except Skip as skip:
        same = blank(bench)
        if same is None:
            raise
        finding = _alike(bench, bench.shared(), same)
        return Outcome(finding.message, (finding,), {}, (NotChecked("whether inputs have an effect", skip.reason),))


def _judged(bench: Bench, found: Subject) -> Outcome:
    from stabcheck.trial.dependence.constant_inputs import all_alike
    from stabcheck.trial.dependence.effect import varying

    not_checked: list[NotChecked] = []
    axes = varying(found)
    same = all_alike(found, BATCHES)
    findings = [_alike(bench, found.session, same)] if same and same.samples >= ENOUGH else []
    ignored: list[str] = []
    if axes and not findings:
        findings, ignored = _effects(bench, found, axes, not_checked)
    if not any(not is_label_name(name) for name in axes):
        why = "none that the model is given differs between the samples of the batch, along an axis that counts them"
        not_checked.append(NotChecked("whether inputs have an effect", why))
    reactions: dict[str, float] = {}
    if not findings:
        findings, reactions = _padding(bench, found)
    if axes and not not_checked:
        findings = findings or list(of_content(bench, found, axes))
    findings = findings or list(of_ignored(bench, found, axes, ignored))
    if axes and not not_checked and all(finding.severity == "warn" for finding in findings):
        findings = list(of_columns(bench, found, axes, ignored)) or list(of_lookups(bench, found)) or findings
    measured = {"inputs": sorted(axes), "without_effect": ignored, "reactions": reactions}
    if not_checked and not findings and not reactions:
        raise Skip(not_checked[0].why)
    read = " and ".join(name for name in axes if name not in ignored)
    told = (
        f"what the model returns depends on {read}"
        if read and not not_checked
        else "padding does not reach the results"
    )
    return Outcome(findings[0].message if findings else told, tuple(findings), measured, tuple(not_checked))


def _effects(
    bench: Bench, found: Subject, axes: dict[str, int], not_checked: list[NotChecked]
) -> tuple[list[Finding], list[str]]:
    """What is wrong, and the inputs without effect."""
    from stabcheck.trial.dependence.effect import end, is_wired, without_effect

    everything = [name for name in axes if not is_label_name(name)]
    if not everything or not without_effect(found, {name: axes[name] for name in everything}, _predictions(found)):
        alone = [name for name in axes if without_effect(found, {name: axes[name]}, lambda outputs: outputs)]
        return [], alone
    elsewhere = [name for name, t in found.inputs().items() if name not in axes and t.dim() and not is_label_name(name)]
    if elsewhere and _tells_samples_apart(found):
        why = f"no axis of {', '.join(elsewhere)} counts the samples, and what the model returns differs between them"
        not_checked.append(NotChecked("whether inputs have an effect", why))
        return [], []
    place = end(found, {name: axes[name] for name in everything})
    is_dead = place is not None and place.op is not None and _has_dead_rectifier(bench, place.op.module)
    if place is None or not place.is_wiring or is_dead or (place.may_be_rounding and is_wired(found)):
        where = f" in {place.op.words}" if place and place.op else ""
        not_checked.append(
            NotChecked("whether inputs have an effect", f"their signal dies{where}, which other checks judge")
        )
        return [], []
    op = place.op
    return [
        UNUSED.at(
            op.module if op else None,
            source=(op.line if op else None) or bench.source(found.session.model),
            names=", ".join(everything),
            cause=f": after {op.words} nothing depends on them any more" if op else ": forward() never uses them",
            remedy=_remedy(op.name.strip("_") if op else ""),
        )
    ], everything


def _has_dead_rectifier(bench: Bench, module: str | None) -> bool:
    """Whether a rectifier in that module, which may be written out as a product or a mask, let nothing pass in the trial."""
    calls = bench.recording.rectifiers if bench.recording else ()
    return any(call.module == (module or "") and bool(call.observed) and max(call.last_fired) < 0 for call in calls)


def _tells_samples_apart(found: Subject) -> bool:
    """Whether predictions differ between samples, wherever they have that from."""
    rows = [t for t in _predictions(found)(found.base).values() if t.dim() and len(t) == found.samples]
    return any(bool((t != t[:1]).any()) for t in rows)


def _remedy(name: str) -> str:
    if name in {"softmax", "scaled_dot_product_attention", "multi_head_attention_forward", "masked_fill", "where"}:
        return "look at the mask: it hides everything, or the softmax runs over an axis of length 1"
    return "follow the inputs through forward(): a zeros_like() left behind, a wrong slice, a mask or factor of zero"


def _predictions(found: Subject) -> Callable[[Outputs], Outputs]:
    """What a model returns beside its loss, if there is anything: the loss depends on labels too."""
    with_axes = {name for name, t in found.base.items() if t.dim()}
    return lambda outputs: {name: t for name, t in outputs.items() if name in with_axes or not with_axes}


def _padding(bench: Bench, found: Subject) -> tuple[list[Finding], dict[str, float]]:
    from stabcheck.trial.dependence.padding import flows, is_heeded, padded_inputs

    reactions: dict[str, float] = {}
    source = bench.source(found.session.model)
    for padded in padded_inputs(found):
        seen = flows(found, padded)
        for flow in seen:
            reactions |= {f"{flow.output} to padding of {padded.name}": flow.from_padding}
            reactions |= {f"{flow.output} to the rest of {padded.name}": flow.from_real}
        facts: list[dict[str, Any]] = [
            {"name": padded.name, "output": f.output, "from_padding": f.from_padding, "from_real": f.from_real}
            for f in seen
        ]
        if seen and all(flow.is_inverted for flow in seen):
            return [INVERTED.at(None, source=source, **facts[0])], reactions
        strong = [fact for fact, f in zip(facts, seen, strict=True) if f.from_padding > SEEN * f.from_real]
        if padded.masks and strong and not is_heeded(found, padded):
            return [IGNORED_MASK.at(None, source=source, masks=" and ".join(padded.masks), **strong[0])], reactions
    return [], reactions


def _alike(bench: Bench, session: Session, same: Alike) -> Finding:
    return ALIKE.at(None, source=bench.source(session.setup.train_loader), **vars(same))
