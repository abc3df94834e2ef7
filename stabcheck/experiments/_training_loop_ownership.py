"""The part of training-loop that judges which parameters have an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Rule, Source
from stabcheck.reading import called

if TYPE_CHECKING:
    from stabcheck.trial.loop.hidden import Hidden
    from stabcheck.trial.loop.ownership import Orphan
    from stabcheck.trial.loop.watched import Watched

MOST_FINDINGS = 5
"""Modules named one by one: more would bury what they have in common."""

UNOPTIMIZED = Rule(
    "SC1505",
    "parameters-without-optimizer",
    "fail",
    message="{count} trainable parameter(s) of {at} get a gradient at every step, but no optimizer holds them: {at} "
    "keeps its initial values{why}",
    fix="add {at}'s parameters to the optimizer, or set requires_grad=False on them if they are meant to stay fixed",
)
OTHER_TENSORS = Rule(
    "SC1506",
    "optimizer-holds-other-tensors",
    "fail",
    message="the optimizer holds {foreign} tensor(s) that get no gradient, {whose}, instead of the {count} parameter(s) "
    "of {at} {instead}: {at} is never trained",
    fix="build the optimizer last, from the parameters of the model that is trained: after replacing layers, copying "
    "or rebuilding the model, and choosing what to freeze",
)
TWICE = Rule(
    "SC1507",
    "parameters-updated-twice",
    "fail",
    message="{count} parameter(s), {location} among them, are updated twice with the same gradient at each step: {how}",
    fix="{advice}",
)
HIDDEN = Rule(
    "SC1515",
    "weights-outside-the-model",
    "fail",
    message="{count} parameter(s) in {at}{example}, get a gradient at every step, but {why}: they keep the values they were "
    "made with",
    fix="{advice}",
)
MADE_ANEW = Rule(
    "SC1517",
    "layer-made-anew-at-each-call",
    "fail",
    message="each call makes {count} random parameter(s) of its own (the first is {shape}), which get a gradient and are thrown "
    "away: what they do to the signal is another thing at every call, and nobody can train it",
    fix="make the layer once, in __init__ of the module that uses it, and build the optimizer after that",
)
LEFT_OUT = Rule(
    "SC1521",
    "part-of-loss-left-out",
    "fail",
    message="the set-up's own loss gives {count} parameter(s) of {at} a gradient, but what train_step calls backward() on never "
    "does, in {calls} calls (the loss of one batch is {loss:.4g}, backward() is called on {root:.4g}): a part of the loss is left "
    "out, and {at} keeps its initial values",
    fix="call backward() on the sum of all parts of the loss; give the optimizer only what is meant to be trained",
    why="What hangs on the part that is left out keeps its random start, while the loss that is logged may count it.",
)
RIVALS = Rule(
    "SC1525",
    "moved-by-its-rival",
    "fail",
    message="{count} parameter(s) of {at} are moved by two optimizers for opposite ends: the {other} that trains {own} holds them "
    "too, and takes back {share:.0%} of what the {owner} of {at} gains, at the median of {calls} calls",
    fix="give the optimizer of {own} the parameters of {own} alone: its gradient may pass through {at}, not move it",
    why="A judge that is also taught to be fooled judges nothing, and who learns from it learns nothing.",
)
RULES = (UNOPTIMIZED, OTHER_TENSORS, TWICE, HIDDEN, MADE_ANEW, LEFT_OUT, RIVALS)
_CONTAINERS = {"list": "nn.ModuleList", "tuple": "nn.ModuleList", "dict": "nn.ModuleDict"}


def judge(
    seen: Watched,
    source: Source | None,
    defined: Callable[[Any], Source | None],
    kinds: Mapping[str, str],
    *,
    learned: bool,
) -> Iterator[Finding]:
    """What is wrong with who owns which parameter; `defined` says where the user wrote the class of an
    object, `kinds` are the classes of modules whose paths are numbers; `learned` is whether weights may be older than the
    set-up."""
    if seen.foreign and (seen.held or seen.foreign_held):
        yield _other_tensors(seen, source, kinds)
    elif seen.orphans:
        yield from _without_optimizer(seen, source, kinds, learned=learned)
    if seen.left_out is not None:
        yield from _left_out(seen, source, kinds)
    if seen.loss_parameters:
        yield UNOPTIMIZED.at(
            None,
            source=source,
            severity="warn",
            count=len(seen.loss_parameters),
            at="loss_fn",
            why=f" ({seen.loss_parameters[0]})",
        )
    for found in seen.hidden[:MOST_FINDINGS]:
        yield _hidden(found, seen, source, defined)
    if seen.made_anew:
        yield MADE_ANEW.at(
            None,
            source=defined(seen.session.model),
            count=len(seen.made_anew),
            shape=" × ".join(map(str, seen.made_anew[0])) or "a single number",
        )
    if seen.rivalry is not None:
        rivals = seen.rivalry
        at, own = common(rivals.shared), common(rivals.own)
        yield RIVALS.at(
            at or None, source=source, at=called(at, kinds), own=called(own, kinds), owner=rivals.owner, other=rivals.other,
            count=len(rivals.shared), share=rivals.given_back, calls=rivals.calls,
        )  # fmt: skip
    if seen.doubled:
        yield TWICE.at(
            seen.doubled[0],
            source=source,
            count=len(seen.doubled),
            how="a parameter group lists them twice",
            advice="give the optimizer each parameter once: list(dict.fromkeys(parameters)) removes repetitions",
        )


def _hidden(found: Hidden, seen: Watched, source: Source | None, defined: Callable[[Any], Source | None]) -> Finding:
    """Weights that the model keeps for itself but does not list can have been meant for nothing but training."""
    shape = f" (the first is {' × '.join(map(str, found.shape)) or 'a single number'})"
    if found.owner is None:
        return HIDDEN.at(
            None,
            source=source,
            severity="warn",
            count=found.count,
            at=f"a {found.name} beside the model",
            example=f"{shape}, whose input comes from the model",
            why="no optimizer holds them",
            advice=f"give the optimizer the parameters of the {found.name} too, and save it with the model; or set "
            "requires_grad=False on them if they are meant to stay fixed",
        )
    attribute = f"{found.owner}.{found.name}" if found.owner else found.name
    instead = _CONTAINERS.get(found.inside, "nn.Module" if found.inside else "nn.Parameter")
    kept = f"a plain {found.inside}" if found.inside else "a plain tensor"
    return HIDDEN.at(
        found.owner or None,
        source=defined(seen.session.model.get_submodule(found.owner)) or source,
        count=found.count,
        at=attribute,
        example=f", {kept}{shape}",
        why=f"{kept} hides them from model.parameters(), so no optimizer holds them, and from the state_dict",
        advice=f"make {attribute} an {instead}, and build the optimizer after that",
    )


def _left_out(seen: Watched, source: Source | None, kinds: Mapping[str, str]) -> Iterator[Finding]:
    found = seen.left_out
    assert found is not None
    missing = set(found.parameters)
    places: dict[str, int] = {}
    for name in found.parameters:
        place = _whole(seen, name.rpartition(".")[0], missing) if "." in name else name
        places[place] = places.get(place, 0) + 1
    for place, count in list(places.items())[:MOST_FINDINGS]:
        yield LEFT_OUT.at(
            place,
            source=source,
            count=count,
            at=called(place, kinds),
            calls=len(seen.calls),
            loss=found.loss,
            root=found.root,
        )


def _other_tensors(seen: Watched, source: Source | None, kinds: Mapping[str, str]) -> Finding:
    module = common(seen.foreign)
    return OTHER_TENSORS.at(
        module or None,
        source=source,
        foreign=seen.foreign_held,
        count=len(seen.foreign),
        at=called(module, kinds),
        whose="of a layer that the model no longer has" if seen.held else "frozen ones or those of another model",
        instead="that took their place" if seen.held else "that get one",
    )


def _without_optimizer(
    seen: Watched, source: Source | None, kinds: Mapping[str, str], *, learned: bool
) -> Iterator[Finding]:
    """A forgotten part is new, and on the way of the gradient to parts that are trained; what is left out on purpose (a
    backbone behind a probe, a base under adapters or prompts, weights beside tuned biases) is pretrained, or is most of the
    model. What comes first, and may have been loaded or trained before, is doubtful."""
    is_few = seen.trained_modules > len(seen.orphans)
    is_half = seen.trained_modules >= len(seen.orphans)
    forgotten = [o for o in seen.orphans if o.fresh and o.whole and (is_few or (is_half and o.last and o.downstream))]
    missing = {name for orphan in forgotten for name in orphan.parameters}
    places: dict[str, list[Orphan]] = {}
    for orphan in forgotten:
        places.setdefault(_outermost(seen, orphan, missing), []).append(orphan)
    for place, parts in list(places.items())[:MOST_FINDINGS]:
        is_downstream = any(part.downstream for part in parts)
        yield UNOPTIMIZED.at(
            place,
            source=source,
            severity="fail" if is_downstream or not learned else "warn",
            count=sum(len(part.parameters) for part in parts),
            at=called(place, kinds),
            why=f", while {seen.held} parameters {'below' if is_downstream else 'above'} it are trained",
        )


def _outermost(seen: Watched, orphan: Orphan, missing: set[str]) -> str:
    """The largest module around it of which everything is missing; the parameter itself where it is the model's own."""
    if not orphan.module:
        return orphan.parameters[0]
    return _whole(seen, orphan.module, missing)


def _whole(seen: Watched, place: str, missing: set[str]) -> str:
    trainable = [name for name, p in seen.session.model.named_parameters() if p.requires_grad]
    while (outer := place.rpartition(".")[0]) and missing.issuperset(n for n in trainable if n.startswith(f"{outer}.")):
        place = outer
    return place


def common(names: tuple[str, ...]) -> str:
    """The innermost module that holds all of them."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
