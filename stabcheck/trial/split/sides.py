"""Both sides of a split, read so that they can be compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from stabcheck.setup import TrainingSetup
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.split.draws import Probe, is_one_sample, probe, underlying
from stabcheck.trial.split.fields import Roles, leaves, roles
from stabcheck.trial.split.samples import Source, behind, shared_rows
from stabcheck.trial.split.table import Column, Reading, Table, read

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
    """Each dataset that both loaders draw from, with the positions among validation's indices that training draws too."""
    limits: list[tuple[str, str]]

    def largest(self) -> tuple[Column, Column] | None:
        """The values of the largest leaf of the input on both sides; None if none were kept."""
        columns = [side.table.values for side in (self.train, self.val)]
        paths = [path for path in self.roles.inputs if all(path in c and len(c[path].rows) for c in columns)]
        if not paths:
            return None
        path = max(paths, key=lambda p: _size(columns[0][p].rows[0]))
        return columns[0][path], columns[1][path]

    def unlike(self, fresh: Array) -> Array:
        """Places in the kept validation values of the rows `fresh`, each content once, that no training sample equals."""
        val = self.val.table
        _, once = np.unique(val.inputs[val.kept], return_index=True)
        rows = val.kept[once]
        return np.asarray(once[np.isin(rows, fresh) & ~np.isin(val.inputs[rows], self.train.table.inputs)])


def _size(row: Any) -> int:
    return len(row) if isinstance(row, str) else int(row.size)


def open_split(setup: TrainingSetup, seconds: float, seed: int = 0) -> Split:
    """Read both sides for about `seconds` together.

    Raises:
        UserCodeError: a loader, a dataset or a key function raised.
    """
    with kept_rng(seed):
        sources = [behind(setup.train_loader, "train_loader"), behind(setup.val_loader, "val_loader")]
        shared = shared_rows(*sources)
        probes = [probe(source, seconds / 10, seed) for source in sources]
        limits: list[tuple[str, str]] = []
        if any(_blurred(found, setup) for found in probes):
            below = _underneath(sources, probes, seed)
            changing = " and ".join(s.key for s, found in zip(sources, probes, strict=True) if found.unstable)
            if below is not None:
                sources, probes = below
            elif all(is_one_sample(found) for found in probes):
                why = f"the samples of {changing} change from draw to draw; add 'sample_key' to identify them"
                limits.append(("copies that random augmentation hides", why))
            else:
                shared = []
                why = f"the samples of {changing} are made up anew at each read"
                limits.append(("whether one sample is on both sides", why))
        return _read(setup, sources, probes, shared, limits, seconds, seed)


def _blurred(found: Probe, setup: TrainingSetup) -> bool:
    """Whether what would be compared changes from draw to draw."""
    if not found.unstable:
        return False
    chosen = roles(found.samples, found.unstable, pairs=setup.loss_fn is not None)
    return bool(found.unstable & set(chosen.inputs))


def _underneath(sources: list[Source], probes: list[Probe], seed: int) -> tuple[list[Source], list[Probe]] | None:
    """Both sides as their datasets keep them; None where one does not, or the two keep different things."""
    below = [underlying(source, found) for source, found in zip(sources, probes, strict=True)]
    if below[0] is None or below[1] is None:
        return None
    kept = [below[0], below[1]]
    again = [probe(source, 1.0, seed) for source in kept]
    if _form(again[0]) != _form(again[1]) or any(found.unstable for found in again):
        return None
    return kept, again


def _form(found: Probe) -> tuple[str, int]:
    leaf = found.samples[0]["kept"]
    return ("text", 0) if isinstance(leaf, str) else (leaf.dtype.kind, leaf.size)


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
    readings = [Reading(chosen, floats, setup.group_key, setup.sample_key, found.each) for found in probes]
    # Validation first: it is the smaller side, and what it leaves of the time is the training side's.
    started = time.monotonic()
    val = read(sources[1], readings[1], 0.4 * seconds, seed=seed)
    train = read(sources[0], readings[0], seconds - (time.monotonic() - started), seed=seed)
    for source, table in zip(sources, (train, val), strict=True):
        if table.cut_short:
            read_of = f"{len(table):,} of the {source.total:,}" if source.total else f"the first {len(table):,}"
            why = "the check's share of the time was up: raise --budget"
            limits.append((f"all but {read_of} samples of {source.key}", why))
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
