"""What ForwardWatch writes down: modules that ran, forwards of whole models, functions that drop, switches of mode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stabcheck.trial.validation.dropping import Author, Place
from stabcheck.trial.validation.mode_switches import Switch

Print = tuple[float, ...]
"""Numbers that tell tensors apart."""


@dataclass
class Visit:
    """All forwards of one module while it was watched."""

    module: nn.Module
    root: nn.Module
    """The outermost module that was running."""
    path: str
    """From the set-up's model if it ran inside that, else from `root`."""
    kind: str
    of_model: bool
    switch: Switch | None
    training: int = 0
    evaluating: int = 0
    under_eval: int = 0
    """Forwards in training mode while `root` was in eval mode."""
    drops: bool = False
    """A function dropped activations in it while it was in training mode."""

    @property
    def effect(self) -> Switch | None:
        """What its training mode does: as `switch`, with what was seen in place of "custom"."""
        return "dropout" if self.drops else self.switch

    def has_flipped(self, later: Visit) -> bool:
        """Whether the module ran in the other mode in a later visit."""
        return (self.training > 0) != (later.training > 0) and (self.evaluating > 0) != (later.evaluating > 0)


@dataclass
class RootCall:
    """One forward of an outermost module that has parameters."""

    root: nn.Module
    inputs: Print | None = None
    samples: int = 0
    outputs: Print = ()
    grad: bool = False
    wants_input_grad: bool = False


@dataclass
class Activity:
    """A function that drops activations although the module around it is in eval mode."""

    name: str
    strength: float | None
    path: str | None
    """Module that was running; None outside of all modules."""
    kind: str | None
    author: Author | None
    by_hand: bool
    """A random mask in code that speaks of dropout, rather than one of torch's dropout functions."""
    count: int = 1


@dataclass
class ModeCall:
    """One train() or eval() of the user's."""

    module: nn.Module
    mode: bool
    place: Place | None
    inside_forward: bool


def fingerprint(found: list[torch.Tensor]) -> Print:
    """The RMS and up to 64 evenly spaced elements of each of the first eight tensors: enough to tell tensors apart."""
    seen: list[float] = []
    with torch.no_grad(), torch._C.DisableTorchFunction():
        for tensor in found[:8]:
            if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or not tensor.numel():
                continue
            if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                continue  # within vmap or grad there is no value to read
            values = (tensor.abs() if tensor.is_complex() else tensor).detach().reshape(-1).float()
            picks = torch.arange(min(64, len(values)), device=values.device) * len(values) // min(64, len(values))
            seen += [float(values.norm()) / len(values) ** 0.5, *values[picks].tolist()]
    return tuple(seen)
