"""Which inputs of a model have any effect on what it returns, and where the effect of all of them ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from stabcheck.trial.dependence.difference import Outputs, equal, scale
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.dependence.trace import Op, aligned, traced
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
    """Change of what went into it, as a share of that or of what came out, whichever is larger."""

    @property
    def is_wiring(self) -> bool:
        """Whether the inputs are cut off by what the code does, and not by dead or saturated units."""
        return self.op is None or (self.strength >= FADED and self.op.name.strip("_") not in FLAT)


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


def without_effect(subject: Subject, axes: dict[str, int], read: Callable[[Outputs], Outputs]) -> bool:
    """Whether what `read` takes of the outputs stays the same to the last bit for other content of these inputs, in eval mode
    and in the user's own."""
    change = doubled(axes)
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
    size = dict.fromkeys(entered, 1.0)
    last, into = None, 0.0
    for before, after in aligned(base, other):
        reached = [i for i in after.given if i in strength]
        for old, new, made in zip(before.results, after.results, after.made, strict=True):
            if torch.equal(old, new):
                strength.pop(made, None)
            else:
                size[made] = scale(new.float() - old.float())
                strength[made] = size[made] / max(scale(old), 1e-30)
        if reached and not any(made in strength for made in after.made) and before.name not in _LOOKS:
            # A strong change of something tiny is lost in rounding too, beside a bias.
            beside = max((scale(t) for t in before.results if t.is_floating_point()), default=0.0)
            last, into = before, max(min(strength[i], size[i] / max(beside, 1e-30)) for i in reached)
    return End(last, into)


_LOOKS = {"detach", "size", "dim", "numel", "is_floating_point"}


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
    handles = [m.register_forward_hook(noisy(name)) for name, m in modules if isinstance(m, torch.nn.Embedding)]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()
