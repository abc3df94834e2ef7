"""What a checkpoint did not bring back, part by part and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from stabcheck.trial.resume.compare import Difference, differences, heals, is_shaped_like_weights, same
from stabcheck.trial.resume.cuts import Cut, Run
from stabcheck.trial.resume.resume import Resumed
from stabcheck.trial.resume.state import Kind


@dataclass(frozen=True)
class Lost:
    """One part of the run's state that is not what was saved."""

    kind: Kind
    part: str
    names: str
    """The first few values concerned, as the user knows them."""
    count: int
    """Tensors concerned; for the state of an optimizer, parameters."""
    how: str
    """What is there instead, as the end of a sentence."""
    location: str | None = None
    """Path of a module or parameter of the model that holds all of it."""
    total: int = 0
    """Weight tensors or buffers of the model, where those are concerned."""


def lost(run: Run, cut: Cut, result: Resumed) -> list[Lost]:
    """The documented state that load did not restore, root causes first: weights, buffers, optimizers, schedules, and
    models that are kept beside the model, such as an EMA."""
    expected = cut.saved
    if not run.own_checkpoint:  # it promises the three keys only
        expected = {path: leaf for path, leaf in expected.items() if leaf.part in {"model", "optimizer", "scheduler"}}
    changed = differences(expected, result.loaded, result.fresh)
    weights = [d for d in changed if d.kind == "weight"]
    trained = {p for p, leaf in cut.saved.items() if leaf.kind == "weight" and not same(leaf, run.start.get(p))}
    if weights and trained <= {d.path for d in weights}:
        return [_of_model(cut, weights)]  # the rest follows
    # The counter of batches is used only where averages are cumulative, and then training differs.
    buffers = [d for d in changed if d.kind == "buffer" and not d.path.endswith("num_batches_tracked")]
    found = [_of_model(cut, items) for items in (weights, buffers) if items]
    detached = {d.part for d in changed if d.kind == "held"}
    for items in (*_by_part(changed, "held"), *_by_part(changed, "moment"), *_by_part(changed, "schedule")):
        # The entries of an optimizer are named by the parameters that it holds.
        if items[0].kind != "moment" or items[0].part not in detached:
            found.append(_lost(items))
    if run.own_checkpoint:
        found += [_lost(items) for items in _models_beside(run, cut, result, changed)]
    return found


def scalers(cut: Cut, result: Resumed) -> list[Lost]:
    """The loss scalers whose scale, or count of steps towards a larger one, load did not restore."""
    return [_lost(items) for items in _by_part(differences(cut.saved, result.loaded, result.fresh), "scaler")]


def altered(run: Run, cut: Cut) -> str | None:
    """What save() did to the model or its optimizers, as the end of a sentence. Modes count if the steps that followed did
    not put them right. A model kept beside may well be brought up to date in save()."""
    changed = [
        d
        for d in differences(cut.before, cut.saved, run.start)
        if d.kind in {"weight", "buffer", "moment", "schedule", "option"}
        or (d.path.startswith("model.") and d.kind == "mode" and not same(cut.before.get(d.path), cut.end.get(d.path)))
    ]
    if not changed:
        return None
    first, more = changed[0], f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    now = "rounded" if first.rounded else f"{value(first.actual)} instead of {value(first.expected)}"
    return f"afterwards {first.path} is {now}{more}"


def _by_part(changed: Sequence[Difference], kind: Kind) -> list[list[Difference]]:
    """The differences of one kind, grouped by the object they belong to."""
    groups: dict[str, list[Difference]] = {}
    for difference in changed:
        if difference.kind == kind:
            groups.setdefault(difference.part, []).append(difference)
    return list(groups.values())


def value(item: Any, kind: Kind = "number") -> str:
    """A number, or the norm of a tensor, for a sentence."""
    if item is None and kind in {"tensor", "buffer"}:
        return "missing"
    text = f"{item:.4g}" if isinstance(item, float) else repr(item)
    return f"a tensor of norm {text}" if kind in {"tensor", "buffer"} else text


def _models_beside(run: Run, cut: Cut, result: Resumed, changed: Sequence[Difference]) -> list[list[Difference]]:
    """Modules, and collections of tensors shaped like the model's weights, that training changes and that the steps
    after load do not make right."""
    found = []
    for items in (*_by_part(changed, "module"), *_by_part(changed, "tensor")):
        moved = [d for d in items if not same(cut.saved[d.path], run.start.get(d.path))]
        paths = [d.path for d in moved]
        is_model = bool(paths) and (items[0].kind == "module" or is_shaped_like_weights(paths, cut.saved))
        if is_model and not heals(paths, cut.saved, cut.end, result.loaded, result.end):
            found.append(moved)
    return found


def _of_model(cut: Cut, items: Sequence[Difference]) -> Lost:
    total = sum(leaf.kind == items[0].kind for leaf in cut.saved.values())
    return replace(_lost(items), location=_common([d.path for d in items]), total=total)


def _lost(items: Sequence[Difference]) -> Lost:
    kind = items[0].kind
    names = list(dict.fromkeys(_name(d) for d in items))
    count = len({d.path.rpartition("]")[0] for d in items}) if kind == "moment" else len(items)
    return Lost(
        kind=kind,
        part=items[0].path if kind == "tensor" and len(items) == 1 else items[0].part,
        names=", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else ""),
        count=count,
        how=_how(items),
    )


def _name(difference: Difference) -> str:
    if difference.kind == "held":
        return difference.path.partition("[")[2].removesuffix("]")
    if difference.kind in {"moment", "schedule", "scaler"}:
        return difference.path.rpartition("].")[2].rpartition(".")[2].partition("[")[0]
    return difference.path.partition(".")[2] or difference.path


def _how(items: Sequence[Difference]) -> str:
    kind = items[0].kind
    if kind in {"schedule", "scaler"}:
        return "; ".join(f"{_name(d)} is {value(d.actual)} instead of {value(d.expected)}" for d in items[:3])
    if all(d.untouched for d in items):
        return "there is none" if kind == "moment" else "still what a new set-up starts with"
    if all(d.rounded for d in items):
        return "rounded, as by a shorter float format"
    first = next(d for d in items if not d.untouched)
    if first.share is not None:
        return f"{first.path} is off by {100 * first.share:.2g} % of its norm"
    return f"{first.path} is {value(first.actual)} instead of {value(first.expected)}"


def _common(paths: Sequence[str]) -> str | None:
    """The module or parameter of the model that all paths lie in; None for the model itself."""
    columns = zip(*(path.split(".")[1:] for path in paths), strict=False)
    return ".".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)) or None
