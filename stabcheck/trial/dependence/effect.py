"""Which inputs of a model have any effect on what it returns, and where the effect of all of them ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from stabcheck.trial.dependence.difference import Outputs, equal, scale
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.dependence.trace import Op, aligned, traced
from stabcheck.trial.hooks import attached
from stabcheck.trial.modes import kept_modes
from stabcheck.userland import UserCodeError

FADED = 1e-3
"""Relative change from which one still counts as cut off at once, and not as lost in rounding after it had faded layer by
layer: 1,000 times float32's rounding, and a tenth of what bfloat16 rounds away."""
FLAT = {
    *(
        "relu",
        "relu6",
        "hardtanh",
        "threshold",
        "clamp",
        "clip",
        "clamp_min",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
    ),
    *(
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "hardsigmoid",
        "hardswish",
        "softplus",
        "logsigmoid",
        "softsign",
        "tanhshrink",
    ),
    *("softshrink", "hardshrink", "erf"),
}
"""Activations: where one of these ends the signal its units are dead or saturated, and its wiring is not at fault."""


@dataclass(frozen=True)
class End:
    """Where the last trace of the inputs is lost."""

    op: Op | None
    """The operation whose result no longer depends on them; None if none of them is used at all."""
    strength: float
    """Relative change of what went into it."""
    share: float = math.inf
    """The same change as a share of what came out."""

    @property
    def is_wiring(self) -> bool:
        """Whether the inputs are cut off by what the code does, and not by dead or saturated units."""
        return self.op is None or (self.strength >= FADED and self.op.name.strip("_") not in FLAT)

    @property
    def may_be_rounding(self) -> bool:
        """Whether what came out is so much larger that the change may only be too small to show in it, as a signal that
        has shrunk layer by layer is beside the bias of the last one."""
        return self.op is not None and self.share < FADED


def varying(subject: Subject) -> dict[str, int]:
    """Inputs that differ between samples, with their sample axis."""
    axes = {name: axis for name, t in subject.inputs().items() if (axis := subject.axis(t)) is not None}
    return {name: axis for name, axis in axes.items() if _varies(subject.given(name).movedim(axis, 0))}


def _varies(rows: torch.Tensor) -> bool:
    return len(rows) > 1 and bool((rows != rows[:1]).any())


def doubled(axes: dict[str, int]) -> Changed:
    """Each sample twice, in order, for as many as there are: descending lengths stay so, and what is summed over the
    samples changes too."""

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in axes:
            return tensor
        axis = axes[name]
        return tensor.detach().index_select(axis, torch.arange(tensor.shape[axis], device=tensor.device) // 2)

    return change


def doubled_columns(name: str, columns: Sequence[int]) -> Changed:
    """The same for some columns of a table (samples, columns)."""

    def change(given: str, tensor: torch.Tensor) -> torch.Tensor:
        if given != name:
            return tensor
        other = tensor.detach().clone()
        rows = torch.arange(len(tensor), device=tensor.device) // 2
        other[:, list(columns)] = other[rows][:, list(columns)]
        return other

    return change


def without_effect(subject: Subject, axes: dict[str, int], read: Callable[[Outputs], Outputs]) -> bool:
    """Whether what `read` takes of the outputs stays the same to the last bit for other content of these inputs, in eval mode
    and in the user's own."""
    return is_without_effect(subject, doubled(axes), read)


def is_without_effect(subject: Subject, change: Changed, read: Callable[[Outputs], Outputs]) -> bool:
    """The same for any change of the inputs."""
    model = subject.session.model
    with kept_modes(model):
        for mode in (False, True):
            model.train(mode)
            try:
                base, again, other = (read(subject.run(c)) for c in (None, None, change))
            except UserCodeError:  # it cannot take such inputs, so it reads them
                return False
            if not equal(base, again):
                return False
            if not equal(base, other):
                return False
    return True


def end(subject: Subject, axes: dict[str, int]) -> End | None:
    """Where the effect of these inputs ends, given that they have none; None if the operations cannot be followed."""
    traces = [traced(subject), traced(subject, doubled(axes))]
    (base, _), (other, entered) = (t or (None, ()) for t in traces)
    if base is None or other is None:
        return None
    strength = dict.fromkeys(entered, 1.0)
    sizes: dict[int, float] = {}
    found = End(None, 0.0)
    for before, after in aligned(base, other):
        reached = [strength[i] for i in after.given if i in strength]
        for old, new, made in zip(before.results, after.results, after.made, strict=True):
            if torch.equal(old, new):
                strength.pop(made, None)
            else:
                strength[made] = _relative(old, new)
                sizes[made] = scale(new.float() - old.float())
        if reached and not any(made in strength for made in after.made) and before.name not in _LOOKS:
            size = max((sizes[i] for i in after.given if i in strength and i in sizes), default=math.inf)
            into = max((scale(t) for t in before.results), default=0.0)
            found = End(before, max(reached), size / into if into else math.inf)
    return found


def is_wired(subject: Subject) -> bool:
    """Whether gradients get through to the inputs, which they do through signals far too small to be seen in a forward: what
    is cut off has none, what has only shrunk has a small one."""
    for name, tensor in subject.base.items():
        with contextlib.suppress(UserCodeError, RuntimeError):
            found = subject.gradients(name, torch.ones_like(tensor, dtype=torch.bool))
            if any(bool(gradient.any()) for _, gradient in found):
                return True
    return False


_LOOKS = {"detach", "size", "dim", "numel", "is_floating_point"}


def _relative(old: torch.Tensor, new: torch.Tensor) -> float:
    return scale(new.float() - old.float()) / max(scale(old), 1e-30)


@contextlib.contextmanager
def disturbed_embeddings(subject: Subject, ids: torch.Tensor, where: torch.Tensor) -> Iterator[list[str]]:
    """Add noise to the embeddings of `ids` at the positions `where`; gives the names of the embeddings that were met."""
    met: list[str] = []

    def noisy(name: str) -> Callable[..., torch.Tensor | None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if not args or args[0].shape != ids.shape or not torch.equal(args[0], ids):
                return None
            met.append(name)
            noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(subject.seed)).to(output)
            return output + noise * max(scale(output), 1e-6) * where.unsqueeze(-1)

        return hook

    modules = subject.session.model.named_modules()
    with attached(m.register_forward_hook(noisy(name)) for name, m in modules if isinstance(m, torch.nn.Embedding)):
        yield met
