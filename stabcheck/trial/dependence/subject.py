"""One call of the model that can be repeated with other inputs, everything else held still."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, default_collate

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.calls import Call, watched_call
from stabcheck.trial.dependence.difference import Outputs, equal
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import kept_modes, undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

STIR = (0.02, 1e-4, 0.0)
"""Size of the noise that takes the place of parameters that are all zero: behind a gate that starts at zero (ReZero, LoRA, a
zero-initialised head) nothing would reach the output. The first is the usual size of initial weights; the next ones are
tried where exponentials make infinities of it."""
HEAVY = 1e9
"""Weights times numbers in the batch from which it is cut: a dozen calls of the model follow, about a second each there."""
FEW = 8
"""Samples that are enough to see one in the output of another, and padding of different length."""
Changed = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass
class Subject:
    """A model's call on a training batch, in eval mode, repeatable bit by bit."""

    session: Session
    batch: Any
    call: Call
    names: tuple[str, ...]
    """Of the model's positional parameters."""
    samples: int
    certain: bool
    """The loader made the first axis out of several items of its dataset, and not all of them at once."""
    seed: int
    base: Outputs

    def axis(self, tensor: torch.Tensor) -> int | None:
        """The axis of an input that counts samples; None if there is none, or it may be either of two."""
        if not _is_plain(tensor):
            return None
        places = [i for i in range(min(tensor.dim(), 2)) if tensor.shape[i] == self.samples]
        if len(places) == 2:
            return 0 if any(tensor is t for t in batches.tensors(self.batch)) else None
        return places[0] if places else None

    def inputs(self) -> dict[str, torch.Tensor]:
        """Every tensor that the model is given, by name; packed sequences are left out."""
        found: dict[str, torch.Tensor] = {}

        def note(name: str, tensor: torch.Tensor) -> torch.Tensor:
            found[name] = tensor
            return tensor

        self._given(note)
        return found

    def is_ambiguous(self) -> bool:
        """Whether another axis of an input or output is as long as that of the samples."""
        both = [*self.inputs().values(), *named_outputs(self.call.output).values()]
        return self.samples > 2 and any(_is_plain(t) and t.shape.count(self.samples) > 1 for t in both)

    def is_ragged(self) -> bool:
        """Whether the loader gives tensors that do not count samples, as the words of all texts in one row."""
        there = batches.tensors(self.batch)
        return any(not _is_plain(t) or (t.numel() > 1 and self.samples not in t.shape[:2]) for t in there)

    def given(self, name: str) -> torch.Tensor:
        """The input of that name."""
        return self.inputs()[name]

    def run(self, change: Changed | None = None, *, graph: bool = False) -> Outputs:
        """The outputs with `change(name, tensor)` in the place of each input; `graph` leaves gradients enabled.

        Raises:
            UserCodeError: the model does not take such inputs.
        """
        args, kwargs = self._given(change) if change else (self.call.args, self.call.kwargs)
        try:
            with torch.set_grad_enabled(graph), kept_rng(self.seed):
                return named_outputs(self.call.again(*args, **kwargs))
        except UserCodeError as error:
            if graph or "require grad" not in error.message:  # a model that differentiates needs its graph
                raise
        return self.run(change, graph=True)

    def gradients(self, output: str, elements: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Floating inputs, and what embeddings made of tokens, each with the gradient of a random sum of these elements.

        Raises:
            UserCodeError: the model raised.
            RuntimeError: there is no way back through it.
        """
        leaves: list[torch.Tensor] = []

        def leaf(name: str, tensor: torch.Tensor) -> torch.Tensor:
            if not _is_plain(tensor) or not tensor.is_floating_point():
                return tensor
            leaves.append(tensor.detach().clone().requires_grad_())
            return leaves[-1] + 0  # which may be changed in place

        def embedded(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
            return leaf("", out)

        modules = [m for m in self.session.model.modules() if isinstance(m, nn.Embedding)]
        args, kwargs = self._given(leaf)
        with attached(m.register_forward_hook(embedded) for m in modules), torch.enable_grad(), kept_rng(self.seed):
            value = _named(self.call.again(*args, **kwargs))[output]
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(self.seed)).to(value)
        found = torch.autograd.grad((value * weights)[elements].sum(), leaves, allow_unused=True)
        return [(t, torch.zeros_like(t) if g is None else g) for t, g in zip(leaves, found, strict=True)]

    def replaced(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], change: Changed
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the model with `change(name, tensor)` in the place of each tensor."""
        names = (self.names[i] if i < len(self.names) else f"argument {i + 1}" for i in range(len(args)))
        mapped = tuple(_mapped(name, value, change) for name, value in zip(names, args, strict=True))
        return mapped, {name: _mapped(name, value, change) for name, value in kwargs.items()}

    def _given(self, change: Changed) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.replaced(self.call.args, self.call.kwargs, change)


@contextlib.contextmanager
def subject(bench: Bench) -> Iterator[Subject]:
    """The first training batch through the shared session's model; all is put back on leaving.

    Raises:
        Skip: the model's inputs or outputs cannot be seen, hold no sample axis, or vary from call to call.
    """
    with prepared(bench.shared(), bench.seed) as found:
        yield found


@contextlib.contextmanager
def prepared(session: Session, seed: int) -> Iterator[Subject]:
    """The same for any session.

    Raises:
        Skip: as above.
    """
    with kept_rng(seed), undisturbed(session.model):
        batch = session.placed(session.first_batch())
        closed = _closed(session.model)
        for size in STIR if closed else (0.0,):
            with torch.no_grad():
                for parameter in closed:
                    parameter.copy_(torch.randn_like(parameter) * size)
            found = _handy(session, batch, seed)
            session.model.eval()
            found.base = found.run()
            if not found.base:
                raise Skip("the model returns no floating tensor")
            if all(bool(torch.isfinite(t).all()) for t in found.base.values()):
                break
        if not any(bool(torch.isfinite(t).any()) for t in found.base.values()):
            raise Skip("the model returns no finite number for a training batch")
        again = found.run()
        if not equal(found.base, again):
            raise Skip("the model's outputs differ from one call to the next although weights, inputs and seeds do not")
        yield found


def same_for(subject: Subject, batch: Any) -> Subject:
    """The model's call for another batch.

    Raises:
        UserCodeError: the model does not take it.
    """
    call = watched_call(subject.session, subject.session.placed(batch), subject.seed)
    return replace(subject, batch=batch, call=call, samples=batches.size(batch))


def _handy(session: Session, batch: Any, seed: int) -> Subject:
    """The call for the batch, or for fewer samples of it where that saves time or leaves no doubt which axis counts them."""
    samples, certain = _samples(session.setup.train_loader, batch)
    numbers = sum(t.numel() for t in batches.tensors(batch))
    weights = sum(p.numel() for p in session.model.parameters() if not is_lazy(p))
    if certain and samples > FEW and numbers * weights > HEAVY:
        for count in (FEW, FEW - 1):
            with contextlib.suppress(UserCodeError, Skip):
                found = _called(session, batches.cut(batch, count), seed, count)
                if not found.is_ambiguous():
                    return found
    found = _called(session, batch, seed)
    if certain and found.is_ambiguous():
        # One sample less, and no other axis is as long as that of the samples.
        with contextlib.suppress(UserCodeError, Skip):
            return _called(session, batches.cut(batch, samples - 1), seed, samples - 1)
    return found


def _called(session: Session, batch: Any, seed: int, samples: int | None = None) -> Subject:
    counted, certain = _samples(session.setup.train_loader, batch)
    with kept_modes(session.model):
        try:
            # In the user's own mode first: some layers take their scale from the first batch that they see.
            watched_call(session, batch, seed)
            session.model.eval()
            call = watched_call(session, batch, seed)
        except UserCodeError as error:
            what = "the loss of a training batch cannot be had outside train_step: give 'loss_fn' or 'compute_loss'"
            raise Skip(f"{what} ({error.message[:200]})") from None
    return Subject(session, batch, call, _parameters(session.model), samples or counted, certain, seed, {})


def named_outputs(value: Any) -> Outputs:
    """Floating tensors inside what a model returned, detached."""
    return {name: tensor.detach() for name, tensor in _named(value).items()}


def _named(value: Any, name: str = "") -> Outputs:
    if isinstance(value, torch.Tensor):
        usable = _is_plain(value) and value.is_floating_point() and value.numel()
        return {name or "output": value} if usable else {}
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (list, tuple)):
        items = [(str(i), item) for i, item in enumerate(value)]
    elif hasattr(value, "__dict__") and not callable(value):
        items = [(key, item) for key, item in vars(value).items() if isinstance(item, torch.Tensor)]
    else:
        items = []
    found: Outputs = {}
    for key, item in items:
        found |= _named(item, f"{name}.{key}" if name else f"output {key}" if key.isdigit() else key)
    return found


def _mapped(name: str, value: Any, change: Changed) -> Any:
    if isinstance(value, PackedSequence):
        return value
    if isinstance(value, Mapping) and not isinstance(value, torch.Tensor):
        clone = {key: _mapped(f"{name}.{key}", item, change) for key, item in value.items()}
        wanted = iter(clone.values())
        return (
            batches.map_tensors(value, lambda t: next(wanted))
            if all(isinstance(v, torch.Tensor) for v in clone.values())
            else clone
        )
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_mapped(f"{name}[{i}]", item, change) for i, item in enumerate(value))
    return batches.map_tensors(value, lambda t: change(name, t))


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor is a table of real numbers, neither sparse nor nested nor complex."""
    return not tensor.is_nested and tensor.layout == torch.strided and not tensor.is_complex()


def _parameters(model: nn.Module) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return ()


def _closed(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that are zero all over, behind which nothing may reach the output."""
    there = [p for p in model.parameters() if not is_lazy(p) and p.is_floating_point() and p.numel()]
    return [p for p in there if not p.any()]


def _samples(loader: Any, batch: Any) -> tuple[int, bool]:
    """How many samples the batch holds, and whether its first axis is sure to count them."""
    size = batches.size(batch)
    if not isinstance(loader, DataLoader) or (loader.batch_size is None and loader.batch_sampler is None):
        return size, False
    try:
        whole = len(loader.dataset)  # type: ignore[arg-type]
    except TypeError:
        whole = -1
    if loader.collate_fn is not default_collate and loader.batch_size is not None:
        size = min(loader.batch_size, whole) if whole > 0 else loader.batch_size
    # A batch that is all of the data may be one set or one graph.
    return size, size != whole
