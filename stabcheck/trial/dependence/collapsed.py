"""Embeddings that are given a handful of ids, made of a column whose values have a row each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from stabcheck.check import Source
from stabcheck.trial.calls import watched_call
from stabcheck.trial.dependence.columns import SPARE, UNSEEN, WIDEST
from stabcheck.trial.dependence.subject import Subject
from stabcheck.trial.dependence.trace import Op, Trace, traced
from stabcheck.userland import UserCodeError

FEWEST = 8
"""Values of the column below which a few of them may be what is meant."""
KEPT = 0.25
"""Share of its values that ids are left of, up to which they have been lost and not merged: a table that was meant for merged
values has rows for these."""
BATCHES = 12
"""Batches of training data in which values and ids are counted."""


@dataclass(frozen=True)
class Collapsed:
    """A column that loses its values on its way into an embedding."""

    name: str
    column: int | None
    """None if it is all of the input."""
    values: int
    """Different ones, in the samples that were looked at."""
    ids: int
    """Different ones that the embedding was given for them."""
    rows: int
    """Of the embedding."""
    table: str
    """Its path."""
    samples: int
    line: Source | None
    """Where the ids are looked up."""

    @property
    def words(self) -> str:
        """The column, for a sentence."""
        return self.name if self.column is None else f"column {self.column} of {self.name}"


def collapsed(subject: Subject) -> Collapsed | None:
    """The first embedding with a row for each value of the column that its ids are computed from, and hardly any of these rows
    used."""
    suspects = list(_suspects(subject))
    return next((found for suspect in suspects if (found := _counted(subject, *suspect)) is not None), None)


def _suspects(subject: Subject) -> Iterator[tuple[str, int | None, str, Source | None]]:
    """(input, column, path of the embedding, line) where few ids come of many values in this batch already."""
    tables = {n: m for n, m in subject.session.model.named_modules() if isinstance(m, nn.Embedding)}
    if not any(m.num_embeddings >= FEWEST for m in tables.values()):
        return
    trace = traced(subject)
    if trace is None:
        return
    columns = list(_columns(subject))
    for op in trace[0].ops:
        if op.name != "embedding" or op.module not in tables or not columns:
            continue
        ids, origins = _ids(trace[0], op)
        if ids is None or len(ids) != subject.samples:
            continue
        for name, column, values in columns:
            used = len(ids.unique())
            if used <= len(values.unique()) / 2 and any(_is(origin, values) for origin in origins):
                yield name, column, op.module, op.line


def _columns(subject: Subject) -> Iterator[tuple[str, int | None, torch.Tensor]]:
    for name, tensor in subject.inputs().items():
        if subject.axis(tensor) != 0 or tensor.dtype == torch.bool:
            continue
        parts = tensor[:, :WIDEST].unbind(1) if tensor.dim() == 2 else (tensor,) if tensor.dim() == 1 else ()
        for column, values in enumerate(parts):
            if len(values.unique()) > 1:
                yield name, column if tensor.dim() == 2 else None, values.detach()


def _ids(trace: Trace, op: Op) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The ids (samples,) that an embedding was given, and all results that they were computed from, themselves included."""
    makers = {made: (earlier, i) for earlier in trace.ops for i, made in enumerate(earlier.made)}
    ids: torch.Tensor | None = None
    found: list[torch.Tensor] = []
    waiting, seen = list(op.given), set[int]()
    while waiting:
        one = waiting.pop()
        if one in seen or one not in makers:
            continue
        seen.add(one)
        earlier, i = makers[one]
        result = earlier.results[i]
        if one in op.given and not result.is_floating_point() and result.numel() == len(result):
            ids = result.flatten()
        found.append(result)
        waiting += earlier.given
    return ids, found


def _is(result: torch.Tensor, values: torch.Tensor) -> bool:
    return result.numel() == len(values) and torch.equal(result.detach().flatten().to(values), values)


def _counted(subject: Subject, name: str, column: int | None, table: str, line: Source | None) -> Collapsed | None:
    """The suspect with its numbers over some batches; None if they clear it."""
    embedding = dict(subject.session.model.named_modules())[table]
    rows = int(embedding.num_embeddings)
    values, ids, samples = set[float](), set[int](), 0
    given: list[torch.Tensor] = []
    handle = embedding.register_forward_pre_hook(lambda _, args: given.append(args[0].detach().cpu()))
    try:
        for batch in itertools.islice(subject.session.epoch("train_loader"), BATCHES):
            call = watched_call(subject.session, subject.session.placed(batch), subject.seed)
            again = Subject(subject.session, batch, call, subject.names, subject.samples, True, subject.seed, {})
            tensor = again.inputs()[name]
            values |= set((tensor if column is None else tensor[:, column]).tolist())
            samples += len(tensor)
    except (UserCodeError, KeyError, IndexError):
        return None
    finally:
        handle.remove()
    for one in given:
        ids |= set(one.flatten().tolist())
    whole = all(float(value).is_integer() for value in values)
    kinds = (
        max(len(values), int(max(values)) + 1) if whole else len(values)
    )  # some ids of many are not in these batches
    fits = FEWEST <= kinds <= rows <= kinds * (1 + 2 * UNSEEN) + SPARE
    if not fits or len(ids) > KEPT * len(values):
        return None
    return Collapsed(name, column, len(values), len(ids), rows, table, samples, line)
