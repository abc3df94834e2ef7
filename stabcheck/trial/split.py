"""Both sides of a split, read so that they can be compared."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stabcheck.setup import TrainingSetup
from stabcheck.trial.draws import Probe, is_one_sample, probe, underlying
from stabcheck.trial.duplicates import Repeats, isolated, rate_p, repeats
from stabcheck.trial.fields import Roles, leaves, roles
from stabcheck.trial.neighbours import FAILS, FEW, LIKELY, MATERIAL, Near, neighbours
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.samples import Source, behind, shared_rows
from stabcheck.trial.table import Column, Reading, Table, read
from stabcheck.trial.windows import SHORTEST, Overlap, overlap

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Side:
    """One loader: where its samples come from, and what was read of them."""

    source: Source
    table: Table

    def name(self, row: int) -> int:
        """The user's index of the sample in a row of the table: into the loader's dataset, else its running number."""
        position = int(self.table.index[row])
        indices = (self.source.given or self.source).indices
        return int(indices[position]) if isinstance(indices, np.ndarray) and len(indices) else position


@dataclass(frozen=True)
class Split:
    """Training and validation side, with what stood in the way of comparing them: (what, why)."""

    train: Side
    val: Side
    roles: Roles
    shared: list[tuple[Any, Array]]
    """Each dataset that both loaders draw from, with the rows of the validation table that training draws too."""
    limits: list[tuple[str, str]]


def open_split(setup: TrainingSetup, seconds: float, seed: int = 0) -> Split:
    """Read both sides for about `seconds` together.

    Raises:
        UserCodeError: a loader, a dataset or a key function raised.
    """
    sources = [behind(setup.train_loader, "train_loader"), behind(setup.val_loader, "val_loader")]
    shared = shared_rows(*sources)
    probes = [probe(source, seconds / 10, seed) for source in sources]
    limits: list[tuple[str, str]] = []
    if shared and not all(is_one_sample(found) for found in probes):
        shared = []
        limits.append(
            ("rows that both loaders draw", "the dataset makes its samples up anew at each read, so a row is no sample")
        )
    if any(_blurred(found, setup) for found in probes):
        sources, probes, limit = _look_underneath(sources, probes, seed)
        limits += [limit] if limit else []
    return _read(setup, sources, probes, shared, limits, seconds, seed)


def _blurred(found: Probe, setup: TrainingSetup) -> bool:
    """Whether what would be compared changes from draw to draw."""
    if not found.unstable:
        return False
    chosen = roles(found.samples, found.unstable, pairs=setup.loss_fn is not None)
    return bool(found.unstable & set(chosen.inputs))


def _look_underneath(
    sources: list[Source], probes: list[Probe], seed: int
) -> tuple[list[Source], list[Probe], tuple[str, str] | None]:
    found = [underlying(source, probed) for source, probed in zip(sources, probes, strict=True)]
    if found[0] is not None and found[1] is not None:
        below = [found[0], found[1]]
        again = [probe(source, 1.0, seed) for source in below]
        if _form(again[0]) == _form(again[1]) and not any(probed.unstable for probed in again):
            return below, again, None
    changing = " and ".join(s.key for s, probed in zip(sources, probes, strict=True) if probed.unstable)
    limit = (
        "copies that random augmentation hides",
        f"the samples of {changing} change from draw to draw; add 'sample_key' to compare them by identity",
    )
    return sources, probes, limit


def _form(found: Probe) -> list[tuple[str, str, int]]:
    return [
        (path, "text", 0) if isinstance(leaf, str) else (path, leaf.dtype.kind, leaf.size)
        for path, leaf in leaves(found.samples[0]).items()
    ]


def _read(
    setup: TrainingSetup,
    sources: list[Source],
    probes: list[Probe],
    shared: list[tuple[Any, Array]],
    limits: list[tuple[str, str]],
    seconds: float,
    seed: int,
) -> Split:
    chosen, limit = _common_roles(setup, probes)
    limits += [limit] if limit else []
    floats = frozenset(
        path
        for found in probes
        for sample in found.samples
        for path, leaf in leaves(sample).items()
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fc"
    )
    reading = Reading(chosen, floats, setup.group_key, setup.sample_key)
    with kept_rng(seed):
        # Validation first: it is the smaller side, and what it leaves of the time is the training side's.
        started = time.monotonic()
        val = read(sources[1], reading, 0.4 * seconds, seed=seed)
        train = read(sources[0], reading, seconds - (time.monotonic() - started), seed=seed)
    for source, table in zip(sources, (train, val), strict=True):
        if source.total is not None and len(table) < source.total:
            limits.append(
                (
                    f"{source.total - len(table):,} of the {source.total:,} samples of {source.key}",
                    f"reading {len(table):,} took the check's share of the time; raise --budget to compare more",
                )
            )
        elif source.total is None and table.cut_short:
            limits.append((f"what {source.key} yields after {len(table):,} samples", "the time for reading was up"))
    shared = [(dataset, np.flatnonzero(np.isin(val.index, positions))) for dataset, positions in shared]
    return Split(Side(sources[0], train), Side(sources[1], val), chosen, shared, limits)


def _common_roles(setup: TrainingSetup, probes: list[Probe]) -> tuple[Roles, tuple[str, str] | None]:
    if not all(found.samples for found in probes):
        return Roles((), None), None
    unstable = probes[0].unstable | probes[1].unstable
    chosen = roles(probes[0].samples, unstable, pairs=setup.loss_fn is not None)
    other = leaves(probes[1].samples[0])
    inputs = tuple(path for path in chosen.inputs if path in other)
    label = chosen.label if chosen.label in other else None
    if inputs:
        return Roles(inputs, label, chosen.ignored), None
    why = "the samples of the two loaders have no part in common" if chosen.inputs else "no numbers or texts in them"
    return Roles((), label), ("the content of the samples", why)


# --- comparisons


@dataclass(frozen=True)
class Copies:
    """Equal samples on both sides."""

    inputs: Repeats
    """Compared by input."""
    whole: Repeats
    """Compared by input and label."""
    isolated: Array
    """Those of `inputs.rows` that are not equal by chance (see `duplicates.isolated`)."""
    isolated_within: int
    """Training samples that are isolated and equal to another training sample."""


def copies(split: Split, fresh: Array) -> Copies:
    """Find the samples among the validation rows `fresh` that are equal to a training sample."""
    train, val = split.train.table, split.val.table
    found = _at(repeats(train.inputs, val.inputs[fresh]), fresh)
    everything, halves = np.concatenate([train.inputs, val.inputs]), np.concatenate([train.halves, val.halves])
    contents, times = np.unique(train.inputs, return_counts=True)
    often = times > 1
    return Copies(
        inputs=found,
        whole=_at(repeats(train.whole, val.whole[fresh]), fresh),
        isolated=found.rows[isolated(val.inputs[found.rows], everything, halves)],
        isolated_within=int(times[often][isolated(contents[often], everything, halves)].sum()),
    )


def _at(found: Repeats, rows: Array, twins: Array | None = None) -> Repeats:
    return replace(found, rows=rows[found.rows], twins=found.twins if twins is None else twins[found.twins])


def conflicts(split: Split) -> tuple[int, list[tuple[int, int]]]:
    """Training samples that share an isolated input with another of a different label: (how many, some pairs of rows).

    Only where labels are classes: a text or a measurement differs without conflict.
    """
    train = split.train.table
    if not len(train.labels) or len(np.unique(train.labels)) > max(2, len(train) / 10):
        return 0, []
    _, first = np.unique(train.whole, return_index=True)
    contents, times = np.unique(train.inputs[first], return_counts=True)
    torn = contents[times > 1]
    torn = torn[isolated(torn, train.inputs, train.halves)]
    pairs = []
    for content in torn[:5]:
        one = np.flatnonzero(train.inputs == content)
        pairs.append((int(one[0]), int(one[train.labels[one] != train.labels[one[0]]][0])))
    return int(np.isin(train.inputs, torn).sum()), pairs


def near_copies(split: Split, fresh: Array) -> list[Near]:
    """Look for near-copies of the validation rows `fresh`, equal samples left out: texts that differ in case and spacing
    only, and neighbours in the largest leaf of the input."""
    train, val = split.train.table, split.val.table
    found = []
    if not (np.array_equal(train.folded, train.inputs) and np.array_equal(val.folded, val.inputs)):
        found.append(_recased(split, fresh))
    pair = _largest(split)
    if pair is not None:
        _, once = np.unique(train.inputs[train.kept], return_index=True)
        for view in neighbours(*pair, once, _unlike(split, fresh)):
            found.append(replace(view, rows=val.kept[view.rows], nearest=train.kept[view.nearest]).judged())
    return found


def _recased(split: Split, fresh: Array) -> Near:
    train, val = split.train.table, split.val.table
    _, once = np.unique(train.inputs, return_index=True)
    fresh = fresh[~np.isin(val.inputs[fresh], train.inputs)]
    same = _at(repeats(train.folded[once], val.folded[fresh]), fresh, once)
    p = rate_p(len(same.rows), len(fresh), round(same.within * len(once)), len(once))
    enough = same.distinct >= FEW and same.share - same.within >= MATERIAL and p <= LIKELY
    return Near(
        view="case",
        how="equal but for case and spacing",
        share=same.share,
        within=same.within,
        verdict=("fail" if same.share - same.within >= FAILS else "warn") if enough else None,
        rows=same.rows,
        twins=same.twins,
        distances=[0.0] * len(same.rows[:5]),
        compared=len(fresh),
    )


def overlaps(split: Split, fresh: Array) -> Overlap | None:
    """Look for windows of one series in the largest leaf of the input; None if it is no sequence."""
    pair = _largest(split)
    if pair is None or not all(isinstance(column.rows, np.ndarray) for column in pair):
        return None
    shape, queries = pair[0].shape, _unlike(split, fresh)
    if pair[1].shape != shape or len(shape) not in {1, 2} or not len(queries):
        return None
    best: Overlap | None = None
    for axis, steps in enumerate(shape):
        if steps >= SHORTEST:
            train, val = (_time_major(column, axis) for column in pair)
            found = overlap(train, val[queries], steps)
            best = found if best is None or len(found.ending) > len(best.ending) else best
    if best is None:
        return None
    train_kept, val_kept = split.train.table.kept, split.val.table.kept[queries]
    pairs = [(int(train_kept[t]), int(val_kept[v]), by) for t, v, by in best.pairs]
    return replace(best, ending=val_kept[best.ending], pairs=pairs)


def _unlike(split: Split, fresh: Array) -> Array:
    """Places in the kept validation values of the rows `fresh`, each content once, that no training sample equals."""
    val = split.val.table
    _, once = np.unique(val.inputs[val.kept], return_index=True)
    rows = val.kept[once]
    return np.asarray(once[np.isin(rows, fresh) & ~np.isin(val.inputs[rows], split.train.table.inputs)])


def _time_major(column: Column, axis: int) -> Array:
    rows = np.asarray(column.rows)
    if len(column.shape) == 2 and axis == 1:
        rows = rows.reshape(-1, *column.shape).transpose(0, 2, 1).reshape(len(rows), -1)
    return np.ascontiguousarray(rows)


def _largest(split: Split) -> tuple[Column, Column] | None:
    columns = [side.table.values for side in (split.train, split.val)]
    paths = [path for path in split.roles.inputs if all(path in c and len(c[path].rows) for c in columns)]
    if not paths:
        return None
    path = max(paths, key=lambda p: _size(columns[0][p].rows[0]))
    return columns[0][path], columns[1][path]


def _size(row: Any) -> int:
    return len(row) if isinstance(row, str) else int(row.size)
