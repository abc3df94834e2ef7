"""Rules of data-health about training and validation together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Rule, Skip
from stabcheck.reading import batch_part

if TYPE_CHECKING:
    from stabcheck.experiments.data_health import Data
    from stabcheck.trial.data.neighbour_labels import Relation, Relations
    from stabcheck.trial.data.scan import Scan

RELATED = 0.3
"""Agreement beyond chance (kappa) of a side whose labels have to do with its inputs."""
SIGMAS = 8.0
"""Standard errors above chance which such a side has."""
UNRELATED = 3.0
"""Standard errors above chance that a side without any relation stays below, 999 times in 1000."""
RENAMED, AS_NAMED = 0.6, 0.3
"""Kappa of validation in training with the classes renamed, from which on, and as they are named, up to which, the names
are what is wrong."""
NEW_CLASSES = 0.1
"""Share of validation samples in classes that training does not have, from which on it is the split, not a rare class."""
MATERIAL = 0.5
"""Share of the validation samples that must lie in renamed classes."""

PREPARED = Rule(
    "SC1710",
    "preprocessing-mismatch",
    "fail",
    message="validation inputs are preprocessed differently from training inputs ({where}: {how}){effect}",
    fix="put both through one preprocessing: the same scaling, the same mean and standard deviation (of the training "
    "data), applied once",
)
UNLIKE = Rule(
    "SC1718",
    "validation-scaled-differently",
    "warn",
    message="validation inputs are scaled differently from training inputs ({where}: {how})",
    fix="compare one batch of each loader: the same scaling, the same mean and standard deviation (of the training "
    "data), applied once",
)
UNRELATED_LABELS = Rule(
    "SC1711",
    "labels-unrelated-to-inputs",
    "fail",
    message="the labels of {side} have nothing to do with its inputs: nearest neighbours tell the label of a sample no "
    "better than chance ({hits:.0%}, chance {by_chance:.0%}; {count:,} samples), while in {other} they do "
    "({other_hits:.0%}, chance {other_chance:.0%})",
    fix="bring inputs and labels of {side} into one order: shuffle, sort and filter both with one index, and join "
    "tables by key",
)
CODED = Rule(
    "SC1712",
    "class-encoding-mismatch",
    "fail",
    message="classes are numbered differently in validation and in training ({names}): by its nearest neighbours in "
    "training a validation sample is labelled right in {hits:.0%} of the cases, and in {renamed:.0%} with the "
    "numbers exchanged",
    fix="make the map from class names to numbers once, from the training data, and use it for both",
)
UNSEEN = Rule(
    "SC1716",
    "classes-only-in-validation",
    "fail",
    message="{share:.0%} of the validation samples are of classes that training never shows ({classes})",
    fix="shuffle before splitting, or split by class (train_test_split with stratify)",
)
NO_RELATION = Rule(
    "SC1719",
    "labels-without-relation-to-inputs",
    "warn",
    message="no relation of labels to inputs is found, in training or in validation: nearest neighbours tell the label of a "
    "sample no better than chance ({hits:.0%}, chance {by_chance:.0%}), and after {steps} steps the loss on training samples "
    "is {low:.3g}, below the {constant:.3g} of one guess for all, but on validation samples it never gets below {least:.3g} "
    "(one guess: {val_constant:.3g})",
    fix="look at some samples beside their labels: a shuffle, sort or filter of one without the other gives this, before the "
    "split too; a task whose rule shows late, such as parity, does as well",
)
DOUBTFUL = Rule(
    "SC1725",
    "labels-doubted-by-neighbours",
    "warn",
    message="many labels of {side} look wrong: what its nearest samples in {other} tell is the label of a sample in {hits:.0%} "
    "of the cases, where it is in {clean:.0%} for samples of {other}, whose inputs are much the same; about {wrong:.0%} of its "
    "labels say nothing of the inputs",
    fix="look at samples of {side} beside their labels: a join that matches wrong rows, a default for labels that are missing, "
    "annotators who guess; if it is labelled more roughly on purpose, let the loss know, and train on fewer epochs",
    why="Wrong labels are learnt by heart: the training loss is high until they are, and what is learnt of the rest gets lost.",
)
RULES = (PREPARED, UNLIKE, UNRELATED_LABELS, CODED, UNSEEN, NO_RELATION, DOUBTFUL)
DOUBTED = 0.2
"""Share of the agreement with neighbours that is missing on one side, from which on it is worth a look: annotators of public sets
are wrong in 0 to 10 % of the cases (Northcutt et al. 2021)."""
AS_STORED = 0.5
"""Share of the training inputs that a second pass must bring again: what is drawn anew each time is harder to tell."""
DOUBT_SIGMAS = 5.0
"""Standard errors of the difference in agreement, as seen by neighbours of either side."""
SHARP = 20.0
"""Standard errors of chance in full agreement, from which on neighbours would see a sixth of it."""
LEARNT, TRANSFERRED = 0.1, 0.02
"""Share of the way from one guess for all to the floor that training samples must come, and that validation samples must not:
what is learnt then is the samples themselves."""
REHEARSAL = 4.0
"""Seconds for the training that shows it."""


def labels(data: Data, val: Scan) -> Iterator[Finding]:
    """SC1711, SC1712, SC1716, SC1719, SC1725."""
    from stabcheck.trial.data import contents
    from stabcheck.trial.data.neighbour_labels import relations

    seed, setup = data.bench.seed, data.session.setup
    new, share = contents.unseen(data.train, val)
    matter = (new or data.train.labels) and contents.labels_matter(data.session, data.train, seed)
    if not matter:
        return
    if new and share >= NEW_CLASSES and contents.labels_matter(data.session, val, seed):
        yield UNSEEN.at(None, source=data.source(val.key), share=share, classes=", ".join(map(str, new[:8])))
        return
    found = relations(setup, data.train, val, seed)
    if found is None:
        return
    data.measurements["label_agreement"] = {
        name: round(getattr(found, name).kappa, 3) for name in ("train", "val", "across", "back", "renamed")
    }
    for side, mine, other in (("train_loader", found.train, found.val), ("val_loader", found.val, found.train)):
        if _apart(mine, other):
            yield UNRELATED_LABELS.at(
                None,
                source=data.source(side),
                side=side,
                hits=mine.hits,
                by_chance=mine.by_chance,
                count=mine.count,
                other="val_loader" if side == "train_loader" else "train_loader",
                other_hits=other.hits,
                other_chance=other.by_chance,
            )
            return
    yield from _doubtful(data, val, found)
    if max(r.sigmas for r in (found.train, found.val, found.across)) <= UNRELATED:
        yield from _strangers(data, val, found)
    if _is_renamed(found):
        pairs = list(found.names.items())
        said = ", ".join(f"{a} is {b}" for a, b in pairs[:4]) + (", ..." if len(pairs) > 4 else "")
        yield CODED.at(
            None, source=data.source(val.key), names=said, hits=found.across.hits, renamed=found.renamed.hits
        )


def _doubtful(data: Data, val: Scan, found: Relations) -> Iterator[Finding]:
    """SC1725: the neighbours of either side tell the labels of the one worse than those of the other, of equal inputs."""
    again = data.measurements.get("labels_kept", {}).get("met", 0)
    if not found.alike or again < AS_STORED * data.train.samples:
        return
    for side, mine, clean, own, theirs, other in (
        ("train_loader", found.back, found.val, found.train, found.across, val.key),
        (val.key, found.across, found.train, found.val, found.back, "train_loader"),
    ):
        related = clean.kappa >= RELATED and clean.sigmas >= SIGMAS
        missing = [1 - r.kappa / base.kappa for r, base in ((mine, clean), (own, theirs)) if base.kappa > 0]
        sure = min(_sigmas_below(mine, clean), _sigmas_below(own, theirs)) >= DOUBT_SIGMAS
        if related and sure and min(missing) >= DOUBTED:
            yield DOUBTFUL.at(
                None,
                source=data.source(side),
                side=side,
                other=other,
                hits=mine.hits,
                clean=clean.hits,
                wrong=missing[0],
                count=mine.count,
            )


def _sigmas_below(one: Relation, other: Relation) -> float:
    """Standard errors by which neighbours tell the labels of `one` worse than those of `other`."""
    error = math.sqrt(sum(r.hits * (1 - r.hits) / r.count for r in (one, other)))
    return (other.hits - one.hits) / max(error, 1e-9)


def _strangers(data: Data, val: Scan, found: Relations) -> Iterator[Finding]:
    """Whether the set-up's own model, too, learns of the training labels nothing that holds for validation."""
    from stabcheck.trial.data.short_training import scale_of
    from stabcheck.trial.memorising import course
    from stabcheck.trial.pace import Pace

    bench = data.bench
    if min(r.precision for r in (found.train, found.val, found.across)) < SHARP:
        return
    train, other = (scale_of(data.session, s.batches[:8], bench.seed) for s in (data.train, val))
    if train is None or other is None:
        return

    def transferred(_: float, loss: float) -> bool:
        return other.share(loss) > TRANSFERRED

    seen = course(bench, Pace.on(bench, REHEARSAL), until=transferred)
    if seen is None or train.share(seen.train[-1]) < LEARNT or transferred(0.0, min(seen.val)):
        return
    yield NO_RELATION.at(
        None,
        source=data.source("train_loader"),
        hits=found.train.hits,
        by_chance=found.train.by_chance,
        steps=seen.steps[-1],
        low=seen.train[-1],
        constant=train.constant,
        least=min(seen.val),
        val_constant=other.constant,
    )


def _apart(mine: Relation, other: Relation) -> bool:
    """No relation here, though as many samples as there, where there is a strong one."""
    return (
        other.kappa >= RELATED
        and other.sigmas >= SIGMAS
        and abs(mine.sigmas) <= UNRELATED
        and mine.kappa < other.kappa / 4
        and other.kappa * mine.precision >= SIGMAS
    )


def _is_renamed(found: Relations) -> bool:
    sides = min(found.train.kappa, found.val.kappa)
    is_map = len(set(found.names.values())) == len(found.names) and len(found.names) > 1
    return is_map and sides >= RENAMED and found.renamed.kappa >= RENAMED and found.across.kappa <= AS_NAMED


def preparation(data: Data, val: Scan) -> Iterator[Finding]:
    """SC1710: found by comparing units, proved by undoing the difference."""
    from stabcheck.trial.data import preprocessing

    what = "whether validation data is prepared as training data is"
    try:
        found = preprocessing.suspicions(data.bench, data.session.setup, data.train, val)
    except Skip as skip:
        data.unchecked(what, skip.reason)
        return
    if not found:
        return
    data.bench.tell(0.6, "comparing the preparation of both sides")
    first = max(found, key=lambda s: (bool(s.identified), abs(s.shift), s.ratio))
    how = first.identified or (
        f"standard deviation {first.ratio:.3g} times that of training, means {first.shift:.3g} standard deviations apart, at the "
        "median feature"
    )
    facts: dict[str, Any] = {"where": batch_part(first.path), "how": how, "ratio": first.ratio, "shift": first.shift}
    data.measurements["units_of_validation"] = {"path": first.path, "ratio": first.ratio, "shift": first.shift}
    certain = bool(first.identified) and first.is_extreme
    try:
        undone = preprocessing.undo(data.bench, data.train, val, {s.path: s.repair for s in found}, data.bench.seed)
    except Skip as skip:
        data.unchecked(what, skip.reason)
        if certain:
            yield UNLIKE.at(None, source=data.source(val.key), **facts)
        return
    data.measurements["units_of_validation"]["progress"] = list(undone.progress)
    if first.identified and (undone.is_cured or (certain and not undone.is_no_matter)):
        on = undone.loss
        effect = ""
        if undone.is_better:
            effect = (
                f"; after {undone.steps} steps the loss is {on.train:.4g} on training samples and {on.val:.4g} on validation "
                f"samples; with these in the units of training it is {on.repaired:.4g}"
            )
        yield PREPARED.at(
            None, source=data.source(val.key), **facts, effect=effect, losses=list(on), steps=undone.steps
        )
    elif undone.is_cured or (first.is_extreme and undone.is_better):
        yield UNLIKE.at(None, source=data.source(val.key), **facts)
