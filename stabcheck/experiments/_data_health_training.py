"""Rules of data-health about how samples reach training: in which order, how often, in which units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule, Skip
from stabcheck.reading import batch_part

if TYPE_CHECKING:
    from stabcheck.experiments.data_health import Data
    from stabcheck.trial.data.scaling import Suspects, Worth

SORTED = 0.5
"""Share of what differs between targets that lies between batches, from which on their order is tested by training."""
PURE = 0.8
"""Share of batches of one class from which on an order that is somewhat worse is worth a warning."""
EXTREME = 0.99
"""Share of the largest class from which on a constant guess looks perfect."""

BLOCKS = Rule(
    "SC1704",
    "unshuffled-training-data",
    "fail",
    message="training samples come sorted and are not shuffled: {said}; after {steps} steps in this order the loss on "
    "samples of all kinds is {given:.4g}, and {mixed:.4g} after as many steps on the same samples in random order",
    fix="give the DataLoader shuffle=True (batches made by hand: shuffle the samples before cutting them, and again "
    "each epoch)",
)
INPUTS = Rule(
    "SC1708",
    "unnormalised-inputs",
    "fail",
    message="inputs are badly scaled ({where}: {range}): {raw}; on the same batches, with {changed}, it gets "
    "{standard:.0%} of that way in {steps} steps",
    fix="standardise the inputs: subtract the mean and divide by the standard deviation of each feature (of the "
    "training data), or start the model with a BatchNorm",
)
TARGETS = Rule(
    "SC1709",
    "unnormalised-targets",
    "fail",
    message="targets are badly scaled ({where}: {range}): {raw}; on the same batches, with {changed}, it "
    "comes {standard:.0%} of that way in {steps} steps",
    fix="train on (target - mean) / std of the training data and undo it when predicting, or start the last bias at "
    "the mean and scale the output",
)
REPEATED = Rule(
    "SC1714",
    "repeated-augmentation",
    "fail",
    message="random augmentation repeats itself: {how}",
    fix="{advice}",
)
IMBALANCE = Rule(
    "SC1717",
    "class-imbalance",
    "warn",
    message="{share:.1%} of {samples:,} training samples are of class {largest}, and nothing counters the imbalance: a "
    "constant guess is right {share:.1%} of the time",
    fix="weight the loss (weight, pos_weight), draw with a WeightedRandomSampler, or judge by a score that a "
    "constant guess does not win, such as average precision",
    why="A model that always says the largest class scores well, and is useless for the others.",
)
INVERTED = Rule(
    "SC1720",
    "rare-classes-weighted-down",
    "warn",
    message="{where} weighs a sample of class {rare} ({rare_share:.1%} of the samples) {ratio:.3g} times less than one "
    "of class {frequent} ({share:.1%}): what is rare becomes rarer",
    fix="weights are the inverse of the counts: 1 / count for each class, and for a sampler that of each sample's class",
)
RULES = (BLOCKS, INPUTS, TARGETS, REPEATED, IMBALANCE, INVERTED)


def ordered(data: Data) -> Iterator[Finding]:
    """SC1704."""
    from stabcheck.trial.data import sample_order

    found = sample_order.order(data.session, data.train)
    if found is None:
        return
    data.measurements["sorted"] = {"between_batches": found.between, "by_chance": found.by_chance}
    setup = data.session.setup
    if found.sorted < SORTED or not sample_order.is_given_order(setup.train_loader):
        return
    data.bench.tell(0.4, "training in random order")
    try:
        worth = sample_order.worth_of_mixing(data.bench, data.train, data.bench.seed)
    except Skip as skip:
        data.unchecked("what the order of the training data does", skip.reason)
        return
    if worth is None:
        data.unchecked("what the order of the training data does", "its samples cannot be put in another order")
        return
    data.measurements["sorted"] |= {"progress": worth.as_given, "progress_mixed": worth.mixed}
    is_pure = found.one_class is not None and found.one_class >= PURE
    if worth.is_harmful or (is_pure and worth.is_worse):
        said = f"{found.sorted:.0%} of what differs between targets lies between batches"
        if found.one_class is not None:
            said = f"{found.one_class:.0%} of the batches hold one class only"
        yield BLOCKS.at(
            None,
            severity="fail" if worth.is_harmful else "warn",
            source=data.source("train_loader"),
            said=said,
            steps=worth.steps,
            given=worth.loss_as_given,
            mixed=worth.loss_mixed,
        )


def repeated(data: Data) -> Iterator[Finding]:
    """SC1714."""
    from stabcheck.trial.data.augmentation import quietly

    found = quietly(data.session)
    if found is None:
        return
    if found.how == "reseeded":
        how = (
            f"reading a training sample seeds {found.generator}'s global generator with one and the same number: every "
            "sample is augmented alike, and dropout and shuffling repeat themselves too"
        )
        advice = "take the seeding out of the dataset; seed once, at the start of the script"
    else:
        how = (
            f"the training dataset draws from a generator of its own ({found.generator}), which every DataLoader worker gets "
            "a copy of: workers augment alike, and every epoch as the one before"
        )
        advice = "seed it in worker_init_fn, from torch.initial_seed(); or draw with torch, which is seeded anew in every worker"
    yield REPEATED.at(None, source=data.bench.source(found.dataset), how=how, advice=advice)


def scaled(data: Data) -> Iterator[Finding]:
    """SC1708, SC1709: the first units whose repair helps."""
    from stabcheck.trial.data import scaling

    found = scaling.suspects(data.session, data.train, data.bench.seed)
    trials: list[Suspects] = [{key: unit} for key, unit in found.items()]
    if len({what for what, _ in found}) > 1:  # what is right in one unit may wait for the other
        trials.append(found)
    for odd in trials:
        names = " and ".join(dict.fromkeys(what for what, _ in odd))
        data.bench.tell(0.8, f"training with {names} in standard units")
        try:
            worth = scaling.worth(data.bench, data.train, odd, data.bench.seed)
        except Skip as skip:
            data.unchecked(f"what the scale of the {names} does", skip.reason)
            continue
        paths = [path for _, path in odd]
        facts = {"path": paths[0] if len(paths) == 1 else paths, "progress": worth.raw, "standardised": worth.standard}
        data.measurements[f"scale_of_{names.replace(' ', '_')}"] = facts
        if worth.is_needed:
            yield from _badly_scaled(data, odd, worth, names)
            return


def _badly_scaled(data: Data, odd: Suspects, worth: Worth, names: str) -> Iterator[Finding]:
    """One finding for the inputs and one for the targets that were put into standard units."""
    for what, (path, unit) in {what: (path, unit) for (what, path), unit in odd.items()}.items():
        rule = INPUTS if what == "inputs" else TARGETS
        yield rule.at(
            None,
            source=data.source("train_loader"),
            where=_argument(path) if what == "inputs" else batch_part(path),
            range=_range(unit.mean.reshape(-1).tolist(), unit.std.reshape(-1).tolist()),
            raw=_said(worth),
            changed=f"{'both ' if ' ' in names else ''}{names} standardised",
            standard=min(1.0, worth.standard),
            progress=worth.raw,
            raw_steps=worth.raw_steps,
            steps=worth.steps,
        )


def _said(worth: Worth) -> str:
    way = "of the way from a constant guess to a perfect fit"
    if worth.raw == -math.inf:
        return f"training ends in NaN or infinity after {worth.raw_steps} steps, 0% {way}"
    share = f"{worth.raw:.0%}" if worth.raw is not None and worth.raw > 0 else "0%"
    return f"training gets {share} {way} in {worth.raw_steps} steps"


def _argument(path: str) -> str:
    name = path.partition(".")[0]
    return f"argument {name} of the model" if name.isdigit() else f"'{name}' of the model"


def _range(means: list[float], spreads: list[float]) -> str:
    if len(means) == 1:
        return f"mean {means[0]:.3g}, standard deviation {spreads[0]:.3g}"
    there = [s for s in spreads if s > 0]
    return f"standard deviations from {min(there):.3g} to {max(there):.3g}, means from {min(means):.3g} to {max(means):.3g}"


def imbalanced(data: Data) -> Iterator[Finding]:
    """SC1717: only where nothing at all counters it. SC1720: where what is to counter it makes it worse."""
    from stabcheck.trial.data import contents
    from stabcheck.trial.data.class_weights import inverted
    from stabcheck.trial.data.rebalancing import is_plain

    found = contents.counts(data.train)
    if not found:
        return
    wrong = inverted(data.session, data.train, found, data.bench.seed)
    if wrong is not None:
        yield INVERTED.at(None, source=data.source("train_loader"), **asdict(wrong))
        return
    data.measurements["classes"] = dict(sorted(found.items(), key=lambda item: -item[1])[:20])
    samples, largest = sum(found.values()), max(found, key=lambda k: found[k])
    share = found[largest] / samples
    if len(found) > 1 and share >= EXTREME and samples >= 1000 and is_plain(data.session, data.train, data.bench.seed):
        yield IMBALANCE.at(None, source=data.source("train_loader"), share=share, samples=samples, largest=largest)
