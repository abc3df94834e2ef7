"""The samples of one loader as a table: a digest of each, and the values of as many as memory allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from stabcheck.trial.split.digests import MIXER, digests, folded
from stabcheck.trial.split.fields import Roles, array_of, leaves
from stabcheck.trial.split.samples import Source, columns
from stabcheck.userland import userland

CHUNK, CHUNK_BYTES, CHUNK_SECONDS = 1024, 2**25, 1.0
"""Samples taken at a time, at most; fewer where they are large or slow."""

KEPT_BYTES = 128 * 2**20
"""Values kept of each side, so that a set of any size fits into memory; digests are kept of all."""

Array = np.ndarray[Any, Any]
Key = Callable[[Any], Any] | None


@dataclass(frozen=True)
class Column:
    """One leaf of the kept samples: a matrix with a row for each, or a list where sizes differ or it is text."""

    rows: Array | list[Any]
    shape: tuple[int, ...] = ()
    """Shape of the leaf in one sample, where it is fixed."""


@dataclass(frozen=True)
class Table:
    """What was read of one side; a row is a sample. Digests are uint64."""

    index: Array
    """Position of the sample among those that the loader draws."""
    inputs: Array
    """Digest of the input alone."""
    halves: Array
    """(n, 2): digests of two halves of the input, cut the same way in every sample; 0 where it cannot be cut."""
    whole: Array
    """Digest of input and label."""
    folded: Array
    """Digest of the input with texts in lower case and with single spaces."""
    labels: Array
    """Digest of the label; empty if there is none."""
    groups: list[Any]
    keys: list[Any]
    kept: Array
    """Rows of which `values` holds the values."""
    values: dict[str, Column]
    cut_short: bool = False
    """Whether reading ended before the samples did."""

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Reading:
    """How samples are read: which leaves are compared, which hold fractions on either side, and the user's keys."""

    roles: Roles
    floats: frozenset[str] = frozenset()
    group_key: Key = None
    sample_key: Key = None
    each: float = 0.0
    """Seconds that reading one sample takes, as far as is known."""


def read(source: Source, reading: Reading, seconds: float, *, seed: int = 0) -> Table:
    """Read the samples of a source for about `seconds`: all, or as many as fit, chosen without looking at them.

    Raises:
        UserCodeError: the dataset, the loader or a key function raised.
    """
    deadline = time.monotonic() + seconds
    rng = np.random.default_rng(seed)
    chunks = _of_items(source, reading, seconds, rng) if source.style == "items" else _of_stream(source, reading)
    tables: list[Table] = []
    size, late = 0, False
    for chunk in chunks:
        tables.append(chunk if size < KEPT_BYTES else replace(chunk, kept=np.empty(0, int), values={}))
        size += sum(map(_bytes, tables[-1].values.values()))
        late = time.monotonic() > deadline
        if late:
            break
    table = _joined(tables, reading)
    return replace(table, cut_short=late if source.total is None else len(table) < source.total)


def _of_items(source: Source, reading: Reading, seconds: float, rng: np.random.Generator) -> Iterator[Table]:
    total = len(source.indices)
    keyed = reading.group_key is not None or reading.sample_key is not None
    tensors = None if keyed else columns(source)
    each = 0.0 if tensors is not None else reading.each
    fits = total if each * total <= seconds else max(1, int(seconds / each))
    chosen = np.arange(total) if fits >= total else np.sort(rng.choice(total, fits, replace=False))
    size = _chunk_size(source.read(source.indices[0]), each)
    # Values are kept of the first chunks, and time may run out: neither must favour one end of the data.
    for start in rng.permutation(np.arange(0, len(chosen), size)).tolist():
        rows = chosen[start : start + size]
        if tensors is not None:
            held, place = tensors
            yield _chunk(rows, {str(i): array_of(t[place[rows]]) for i, t in enumerate(held)}, reading)
        else:
            samples = [source.read(source.indices[row]) for row in rows.tolist()]
            given = source.given
            known = samples if given is None or not keyed else [given.read(given.indices[row]) for row in rows.tolist()]
            yield _of_samples(rows, samples, reading, known)


def _of_stream(source: Source, reading: Reading) -> Iterator[Table]:
    pending: list[Any] = []
    start, size, since = 0, 1, time.monotonic()
    for sample in source.samples():
        if not pending:
            size = _chunk_size(sample, 0.0)
        pending.append(sample)
        if len(pending) >= size or time.monotonic() - since > CHUNK_SECONDS:
            yield _of_samples(np.arange(start, start + len(pending)), pending, reading, pending)
            start, pending, since = start + len(pending), [], time.monotonic()
    if pending:
        yield _of_samples(np.arange(start, start + len(pending)), pending, reading, pending)


def _chunk_size(sample: Any, each: float) -> int:
    size = sum(leaf.nbytes if isinstance(leaf, np.ndarray) else len(leaf) for leaf in leaves(sample).values())
    return max(1, min(CHUNK, CHUNK_BYTES // max(1, size), int(CHUNK_SECONDS / each) if each else CHUNK))


def _of_samples(rows: Array, samples: Sequence[Any], reading: Reading, given: Sequence[Any]) -> Table:
    found = [leaves(sample) for sample in samples]
    wanted = (*reading.roles.inputs, *([reading.roles.label] if reading.roles.label is not None else []))
    table = _chunk(rows, {path: [row.get(path, "") for row in found] for path in wanted}, reading)
    return replace(
        table,
        groups=_keys(reading.group_key, "group_key", given),
        keys=_keys(reading.sample_key, "sample_key", given),
    )


def _keys(function: Key, stage: str, samples: Sequence[Any]) -> list[Any]:
    if function is None:
        return []
    found = []
    for sample in samples:
        with userland(stage):
            found.append(function(sample))
    return [hashable(key) for key in found]


def hashable(key: Any) -> Any:
    """A key that is equal wherever its value is: tensors, which compare by identity, become numbers or tuples."""
    if hasattr(key, "tolist"):
        key = key.tolist()
    if isinstance(key, (list, tuple)):
        return tuple(hashable(item) for item in key)
    if isinstance(key, Mapping):
        return tuple(sorted((str(name), hashable(item)) for name, item in key.items()))
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key


def _chunk(index: Array, leaf_rows: Mapping[str, Any], reading: Reading) -> Table:
    count = len(index)
    inputs, loosely = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    halves = np.zeros((count, 2), np.uint64)
    values, single = {}, 0
    for path in reading.roles.inputs:
        rows, shape = tidy(leaf_rows[path], as_float=path in reading.floats)
        found = digests(rows)
        inputs, loosely = inputs * MIXER + found[:, 0], loosely * MIXER + folded(rows, found[:, 0])
        if isinstance(rows, np.ndarray) and rows.shape[1] == 1:
            # A leaf of one number belongs to one half; several such leaves are dealt out in turn.
            halves[:, single % 2] = halves[:, single % 2] * MIXER + found[:, 0]
            single += 1
        else:
            halves = halves * MIXER + found[:, 1:]
        values[path] = Column(rows, shape)
    labels, whole = np.empty(0, np.uint64), inputs
    if reading.roles.label is not None:
        label, _ = tidy(leaf_rows[reading.roles.label], as_float=reading.roles.label in reading.floats)
        labels = digests(label)[:, 0]
        whole = inputs * MIXER + labels
    return Table(np.asarray(index), inputs, halves, whole, loosely, labels, [], [], np.arange(count), values)


def tidy(values: Any, *, as_float: bool) -> tuple[Any, tuple[int, ...]]:
    """Leaves of one path in the form in which they are compared, and their shape where it is fixed.

    Numbers become float32 where either side has fractions and int64 where neither has, and lose their shape, so that
    one sample stored in two ways stays one: an (n, d) array, or a list of flat arrays. Texts are left alone.
    """
    if isinstance(values, np.ndarray):
        return _plain(values.reshape(len(values), -1), as_float), values.shape[1:]
    if any(isinstance(value, str) for value in values):
        return [value if isinstance(value, str) else repr(value) for value in values], ()
    arrays = [np.asarray(value) for value in values]
    if len({array.shape for array in arrays}) == 1:
        return _plain(np.stack(arrays).reshape(len(arrays), -1), as_float), arrays[0].shape
    return [_plain(array.reshape(-1), as_float) for array in arrays], ()


def _plain(array: Array, as_float: bool) -> Array:
    if array.dtype.kind == "c":
        array = np.concatenate([array.real, array.imag], axis=-1)
    if not as_float:
        return np.ascontiguousarray(array, dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    missing = np.isnan(array)
    if missing.any():
        array[missing] = np.nan  # one bit pattern for all
    return np.ascontiguousarray(array)


def _bytes(column: Column) -> int:
    if isinstance(column.rows, np.ndarray):
        return column.rows.nbytes
    return sum(row.nbytes if isinstance(row, np.ndarray) else 2 * len(row) for row in column.rows)


def _joined(tables: Sequence[Table], reading: Reading) -> Table:
    if not tables:
        empty = np.empty(0, np.uint64)
        return Table(empty.astype(int), empty, empty.reshape(0, 2), empty, empty, empty, [], [], empty.astype(int), {})
    starts = np.cumsum([0, *map(len, tables)])
    arrays: dict[str, Any] = {
        f.name: np.concatenate([getattr(t, f.name) for t in tables])
        for f in fields(Table)
        if f.name not in {"groups", "keys", "kept", "values", "cut_short"}
    }
    return Table(
        **arrays,
        groups=[key for table in tables for key in table.groups],
        keys=[key for table in tables for key in table.keys],
        kept=np.concatenate([table.kept + start for table, start in zip(tables, starts, strict=False)]),
        values={path: _stacked([t.values[path] for t in tables if t.values]) for path in reading.roles.inputs},
    )


def _stacked(pieces: Sequence[Column]) -> Column:
    rows = [piece.rows for piece in pieces]
    matrices = [r for r in rows if isinstance(r, np.ndarray)]
    if len(matrices) == len(rows) and len({r.shape[1] for r in matrices}) == 1:
        shapes = {piece.shape for piece in pieces}
        return Column(np.concatenate(matrices), shapes.pop() if len(shapes) == 1 else ())
    return Column([row for piece in rows for row in piece])
