"""Inputs, and columns of tables, that a model is given and leaves out although they tell about the targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from stabcheck.trial.batches import tensors
from stabcheck.trial.dependence.difference import Outputs
from stabcheck.trial.dependence.effect import doubled, doubled_columns, is_without_effect
from stabcheck.trial.dependence.information import Told, told
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.dependence.trace import Op, aligned, traced
from stabcheck.trial.dependence.wasted import is_heard_by_loss
from stabcheck.trial.losses import split
from stabcheck.trial.rng import kept_rng
from stabcheck.userland import UserCodeError

WIDEST = 64
"""Columns of a table that are looked at."""
SHORT = 4
"""Whole numbers in a row from which they may be a sequence and not one column each."""
SAMPLES = 2000
"""Of the training data that are read for what a column tells: a fiftieth of the variance shows in a few hundred."""
SPARE, UNSEEN = 3, 0.1
"""Rows of a table beyond the highest value seen: for padding, unknown values and a mask, and for values that are rare."""
ALONG = {
    *("conv1d", "conv2d", "conv_transpose1d", "lstm", "gru", "rnn_tanh", "rnn_relu", "unfold", "stft", "fft", "rfft"),
    *("avg_pool1d", "max_pool1d", "scaled_dot_product_attention", "multi_head_attention_forward"),
}
"""Operations that take the numbers of a row for a sequence."""
SELECTS = {"__getitem__", "select", "narrow", "split", "chunk", "unbind", "index_select", "tensor_split", "gather"}


@dataclass(frozen=True)
class LeftOut:
    """A column, or an input of one number for each sample, that has no effect and tells about the targets."""

    name: str
    column: int | None
    """None if it is all of the input."""
    told: Told
    highest: float
    """Of its values."""
    is_measured: bool
    """It holds fractions: no name of a person or a place, which may be left out on purpose."""
    table: str
    """Path of an embedding with a row for each of its values, none of which it is given; "" if there is none."""
    lost: Op | None
    """The operation on the whole table that loses it, where it is not just left out of a selection."""

    @property
    def words(self) -> str:
        """It, for a sentence."""
        return self.name if self.column is None else f"column {self.column} of {self.name}"

    @property
    def is_meant(self) -> bool:
        """Whether the model was built to use it, or anyone would."""
        return self.is_measured or bool(self.table) or self.lost is not None


def left_out(subject: Subject, axes: dict[str, int], ignored: Sequence[str]) -> LeftOut | None:
    """The most telling of the inputs `ignored`, and of the columns without effect of the others, that neither the model nor
    its loss depends on."""
    unused: list[tuple[str, int | None]] = [
        (name, column) for name in ignored if axes[name] == 0 for column in _columns(subject.given(name))
    ]
    for name in axes:
        if name not in ignored and axes[name] == 0:
            unused += [(name, column) for column in ignored_columns(subject, name)]
    unused = [one for one in unused if not is_heard_by_loss(subject, [one[0]], _change(one))]
    if not unused:
        return None
    best = max(_telling(subject, axes, unused), key=lambda one: one.told.share, default=None)
    return best and replace(best, table=_table(subject, best), lost=_lost(subject, best))


def _columns(tensor: torch.Tensor) -> Iterator[int | None]:
    if tensor.dim() == 1 or (tensor.dim() == 2 and tensor.shape[1] == 1):
        yield None
    elif _is_table(tensor):
        yield from range(tensor.shape[1])


def _change(one: tuple[str, int | None]) -> Changed:
    name, column = one
    return doubled({name: 0}) if column is None else doubled_columns(name, [column])


def _is_table(tensor: torch.Tensor) -> bool:
    """Whether each column may be a quantity of its own: whole numbers of one vocabulary are a sequence."""
    if tensor.dim() != 2 or not 2 <= tensor.shape[1] <= WIDEST or tensor.dtype == torch.bool:
        return False
    return tensor.is_floating_point() or tensor.shape[1] < SHORT or len(tensor.amax(0).unique()) > tensor.shape[1] / 2


def ignored_columns(subject: Subject, name: str) -> list[int]:
    """Columns of a table that differ between samples and have no effect, while others have."""
    table = subject.given(name)
    if not _is_table(table):
        return []
    candidates = {column for column in range(table.shape[1]) if bool((table[:, column] != table[0, column]).any())}
    if table.is_floating_point():
        trace = traced(subject)
        if trace is None or any(op.name in ALONG for op in trace[0].ops):
            return []
        candidates -= _with_gradient(subject, table, candidates)
    return [c for c in sorted(candidates) if is_without_effect(subject, doubled_columns(name, [c]), _all)]


def _all(outputs: Outputs) -> Outputs:
    return outputs


def _with_gradient(subject: Subject, table: torch.Tensor, columns: set[int]) -> set[int]:
    found: set[int] = set()
    for output, tensor in subject.base.items():
        try:
            pairs = subject.gradients(output, torch.ones_like(tensor, dtype=torch.bool))
        except (UserCodeError, RuntimeError):
            continue
        for leaf, gradient in pairs:
            if leaf.shape == table.shape and torch.equal(leaf, table):
                found |= set(gradient.any(0).nonzero().flatten().tolist())
    return found & columns


def _telling(subject: Subject, axes: dict[str, int], unused: Sequence[tuple[str, int | None]]) -> Iterator[LeftOut]:
    places = {name: place for name in axes if (place := _place(subject, name)) is not None}
    targets = _targets(subject)
    if not targets or not any(name in places for name, _ in unused):
        return
    rows = _read(subject, {*places.values(), *targets})
    if rows is None:
        return
    used = [
        rows[place][:, column] if column is not None else rows[place].flatten()
        for name, place in places.items()
        for column in _columns(subject.given(name))
        if (name, column) not in unused
    ]
    for name, column in unused:
        if name in places:
            values = rows[places[name]]
            values = values[:, column] if column is not None else values.flatten()
            said = [told(values, used[:WIDEST], rows[target], subject.seed) for target in targets]
            best = max((t for t in said if t is not None and t.is_telling), key=lambda t: t.share, default=None)
            if best is not None:
                is_measured = values.is_floating_point() and bool((values != values.round()).any())
                yield LeftOut(name, column, best, float(values.max()), is_measured, "", None)


def _place(subject: Subject, name: str) -> int | None:
    """Which tensor of the batch an input is, unchanged."""
    given = subject.given(name)
    for place, tensor in enumerate(tensors(subject.batch)):
        same = tensor.shape == given.shape and tensor.stride() == given.stride() and tensor.dtype == given.dtype
        if tensor is given or (same and tensor.data_ptr() == given.data_ptr()):
            return place
    return None


def _targets(subject: Subject) -> list[int]:
    """Tensors of the batch that the loss compares outputs with."""
    there = list(tensors(subject.batch))
    fitting = [
        i for i, t in enumerate(there) if t.dim() in {1, 2} and len(t) == subject.samples and t[0].numel() <= WIDEST
    ]
    if subject.session.setup.loss_fn is not None:
        try:
            wanted = [id(t) for t in tensors(split(subject.batch)[1])]
        except UserCodeError:
            return []
        return [i for i in fitting if id(there[i]) in wanted]
    given = {_place(subject, name): name for name in subject.inputs()}
    labels = {place for place, name in given.items() if any(word in name.lower() for word in ("label", "target"))}
    return [i for i in fitting if i not in given or i in labels]


def _read(subject: Subject, places: set[int]) -> dict[int, torch.Tensor] | None:
    """These tensors of the batches of one pass, for the first samples."""
    found: dict[int, list[torch.Tensor]] = {place: [] for place in places}
    count = 0
    with kept_rng(subject.seed):
        for batch in subject.session.epoch("train_loader"):
            there = list(tensors(batch))
            if max(places) >= len(there) or len({len(there[p]) for p in places if there[p].dim()}) != 1:
                return None
            for place in places:
                found[place].append(there[place].detach().cpu())
            count += len(there[min(places)])
            if count >= SAMPLES:
                break
    try:
        return {place: torch.cat(parts)[:SAMPLES] for place, parts in found.items()}
    except RuntimeError:  # the widths differ from batch to batch
        return None


def _table(subject: Subject, one: LeftOut) -> str:
    if subject.given(one.name).is_floating_point():
        return ""
    rows = int(one.highest) + 1
    modules = [(m.num_embeddings, n) for n, m in subject.session.model.named_modules() if isinstance(m, nn.Embedding)]
    fitting = [(size, name) for size, name in modules if rows <= size <= rows + SPARE + rows * UNSEEN]
    return min(fitting, default=(0, ""))[1]


def _lost(subject: Subject, one: LeftOut) -> Op | None:
    """The last operation that is given the column and whose result does not depend on it, if it does not just select."""
    traces = [traced(subject), traced(subject, _change((one.name, one.column)))]
    (base, _), (other, entered) = (t or (None, ()) for t in traces)
    if base is None or other is None:
        return None
    differing, found = set(entered), None
    for before, after in aligned(base, other):
        reached = differing.intersection(after.given)
        pairs = zip(before.results, after.results, after.made, strict=True)
        changed = {made for old, new, made in pairs if not torch.equal(old, new)}
        differing = (differing - set(after.made)) | changed
        if reached:
            found = before
    return found if found is not None and found.name not in SELECTS else None
