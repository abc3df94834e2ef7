"""The loss functions that are really called, by whatever way: their inputs, targets, options, and the user's line."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stabcheck.check import Source
from stabcheck.trial.hooks import running
from stabcheck.trial.loss_contract.origins import origin
from stabcheck.trial.loss_contract.twins import DIFFERENCES, Twin, are_twins
from stabcheck.trial.losses import IGNORE_INDEX
from stabcheck.trial.validation.forward_watch import uncompiled
from stabcheck.userland import passed_on, users_line

CLASS_LOSSES = ("cross_entropy", "nll_loss")
LOGIT_LOSSES = (
    "cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss",
)  # fmt: skip
"""Losses that apply their own softmax or sigmoid."""
ELEMENTWISE_LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss")
SIGN_LOSSES = ("soft_margin_loss", "hinge_embedding_loss")
"""Losses of (input, target) with targets of -1 and 1."""
BINARY_LOSSES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
LOSSES = {*CLASS_LOSSES, *LOGIT_LOSSES, *ELEMENTWISE_LOSSES, *SIGN_LOSSES, *BINARY_LOSSES, "kl_div", "ctc_loss"}
NORMALISERS = ("log_softmax", "logsigmoid")
"""Functions with which a loss that applies its own softmax or sigmoid is written by hand."""
ARITHMETIC = ("sub", "__sub__", "rsub", "__rsub__")
_POSITIONS = {
    "cross_entropy": ("weight", "", "ignore_index", "", "reduction"),
    "nll_loss": ("weight", "", "ignore_index", "", "reduction"),
    "binary_cross_entropy": ("weight", "", "", "reduction"),
    "binary_cross_entropy_with_logits": ("weight", "", "", "reduction", "pos_weight"),
    "kl_div": ("", "", "reduction", "log_target"),
    "poisson_nll_loss": ("log_input",),
    "ctc_loss": ("input_lengths", "target_lengths", "blank", "reduction", "zero_infinity"),
}
"""Names of the arguments after (input, target) that may be given by position."""


@dataclass
class LossCall:
    """One call of a loss function, or of a function that losses are written with."""

    name: str
    input: torch.Tensor
    target: torch.Tensor | None
    options: dict[str, Any]
    place: Source | None
    result: torch.Tensor | None = None
    error: str = ""
    """What it raised: "" if nothing."""
    pull: torch.Tensor | None = None
    """d root / d result."""
    skips: bool = False
    """Some elements of the result do not count, as where only the hardest are taken."""
    shiftless: bool = False
    """The root stays the same when all classes of a row are raised alike, as where a logsumexp is subtracted elsewhere."""
    made_by: str | None = None
    """The module in which the softmax, sigmoid or tanh was computed whose result is the input."""
    reshaped: tuple[int, ...] | None = None
    """The shape that the input had before a reshape at the place itself, if there was one."""
    spread: bool = False
    """An axis was added to an argument at the place itself, so that the tensors are meant to be spread over each other."""

    @property
    def reduction(self) -> str:
        """ "mean", "sum", "none" or, for kl_div, "batchmean"."""
        return str(self.options.get("reduction", "mean"))

    @property
    def ignore_index(self) -> int:
        """The target that a class loss leaves out."""
        return int(self.options.get("ignore_index", IGNORE_INDEX))

    @property
    def class_axis(self) -> int:
        """Where a class loss looks for the classes in its input."""
        return 0 if self.input.dim() == 1 else 1

    @property
    def has_indices(self) -> bool:
        """Whether the targets are class numbers."""
        return (
            self.name in CLASS_LOSSES
            and self.target is not None
            and not self.target.is_floating_point()
            and not self.target.is_complex()
        )

    @property
    def weighed(self) -> torch.Tensor:
        """The targets of a loss of single elements that count: neither of weight 0 nor left out of the sum afterwards."""
        assert self.target is not None
        counts = torch.ones_like(self.target, dtype=torch.bool)
        for factor in (self.options.get("weight"), self.pull if self.reduction == "none" else None):
            if isinstance(factor, torch.Tensor) and factor.dim() <= counts.dim():
                counts &= (factor != 0).expand_as(counts)
        return self.target.detach()[counts]

    @property
    def used(self) -> torch.Tensor:
        """The class numbers that count."""
        assert self.target is not None
        return self.target[self.target != self.ignore_index]


@dataclass(frozen=True)
class Crossing:
    """Elementwise arithmetic in which tensors of a different number of axes were spread over each other."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    """Of the prediction and of the target."""
    result: torch.Tensor
    place: Source | None


@dataclass(eq=False)
class LossWatch(TorchFunctionMode):
    """Notes the calls that happen inside. `before` may replace the arguments of a function: it gets the function's name
    and them, and returns them."""

    model: nn.Module
    before: Callable[[str, tuple[Any, ...]], tuple[Any, ...]] | None = None
    calls: list[LossCall] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    twins: list[Twin] = field(default_factory=list)
    token_ids: list[torch.Tensor] = field(default_factory=list)
    """Two-dimensional indices that embeddings were looked up with."""

    def __post_init__(self) -> None:
        super().__init__()
        self._running: list[nn.Module] = []
        self._names = {id(module): name for name, module in self.model.named_modules()}
        self._activated: dict[Any, str] = {}
        self._thread = threading.get_ident()
        self._spread: set[int] = set()
        self._reshaped: dict[int, tuple[int, ...]] = {}
        self._kept: list[Any] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Observe everything that happens inside."""
        with contextlib.ExitStack() as stack:
            self._running = stack.enter_context(running(self.model))
            stack.enter_context(uncompiled())
            stack.enter_context(self)
            yield
        self._kept.clear()
        self._activated.clear()
        self._reshaped.clear()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call through, and note what a loss may be made of."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if threading.get_ident() != self._thread:
            return passed_on(func, *args, **kwargs)
        if self.before is not None:
            args = self.before(name, args)
        call = self._begin(name, args, kwargs)
        try:
            result = passed_on(func, *args, **kwargs)
        except (RuntimeError, ValueError, IndexError) as error:
            if call is not None:
                call.error = f"{type(error).__name__}: {error}"
            raise
        if call is not None and isinstance(result, torch.Tensor):
            call.result = result
        self._note(name, args, kwargs, result)
        return result

    def _begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LossCall | None:
        if name not in LOSSES and name not in NORMALISERS:
            return None
        first = args[0] if args else kwargs.get("log_probs" if name == "ctc_loss" else "input")
        second = args[1] if len(args) > 1 else kwargs.get("targets" if name == "ctc_loss" else "target")
        if not isinstance(first, torch.Tensor) or is_wrapped(first):
            return None
        target = second if isinstance(second, torch.Tensor) and name in LOSSES else None
        options = {key: value for key, value in zip(_POSITIONS.get(name, ()), args[2:], strict=False) if key}
        place = users_line(sys._getframe(2))
        call = LossCall(name, first, target, options | kwargs, place)
        call.made_by = self._activated.get(origin(first)[1])
        call.reshaped = self._reshaped.get(id(first))
        call.spread = id(first) in self._spread or id(second) in self._spread
        self.calls.append(call)
        return call

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if name in DIFFERENCES and isinstance(result, torch.Tensor):
            both = [*args[:2], *(kwargs[key] for key in ("input", "target") if key in kwargs)]
            if len(both) == 2 and are_twins(name, *both):
                self.twins.append(Twin(name, (both[0], both[1]), result, users_line(sys._getframe(2))))
        if name == "embedding":
            ids = args[0] if args else kwargs.get("input")
            if isinstance(ids, torch.Tensor) and ids.dim() == 2 and not is_wrapped(ids):
                self.token_ids.append(ids)
        elif name in {"softmax", "sigmoid", "tanh"}:
            if isinstance(result, torch.Tensor) and result.grad_fn is not None and self._running:
                self._activated[result.grad_fn] = self._names.get(id(self._running[-1]), "")
        elif name in {"unsqueeze", "__getitem__", "expand", "expand_as"}:
            # Whoever adds an axis at the place itself wants the tensors to be spread.
            if isinstance(result, torch.Tensor) and result.dim() > args[0].dim():
                self._spread.add(id(result))
                self._kept.append(result)
        elif name in {"reshape", "view"} and not self._running:
            if isinstance(result, torch.Tensor) and result.requires_grad:
                self._reshaped[id(result)] = tuple(args[0].shape)
                self._kept.append(result)
        elif name in ARITHMETIC and not self._running:
            pair = [a for a in args[:2] if isinstance(a, torch.Tensor)]
            if (
                len(pair) == 2
                and pair[0].requires_grad != pair[1].requires_grad
                and not {id(a) for a in pair} & self._spread
            ):
                prediction, target = pair if pair[0].requires_grad else reversed(pair)
                if crossed(prediction.shape, target.shape) and prediction.dim() != target.dim():
                    shapes = (tuple(prediction.shape), tuple(target.shape))
                    self.crossings.append(Crossing(shapes, result, users_line(sys._getframe(2))))


def crossed(a: torch.Size, b: torch.Size) -> bool:
    """Whether elementwise arithmetic spreads two shapes of equal size over more elements than either has, as (N, 1) with
    (N,)."""
    if a.numel() != b.numel():
        return False
    try:
        return int(torch.broadcast_shapes(a, b).numel()) > a.numel()
    except RuntimeError:
        return False


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether it has no values to read, as inside vmap, or on the meta device."""
    return bool(tensor.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(tensor))
