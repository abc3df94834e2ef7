"""What a watched loop did, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Share:
    """A part of a parameter's gradient that does not belong there, when an optimizer used it."""

    name: str
    old: float
    """Norm of what was in `.grad` before the backward pass."""
    fresh: float
    """Norm of what that pass brought."""
    together: float
    """Norm of the two together, as that pass left them."""
    used_before: bool
    """An optimizer had used the old part already; otherwise it was left by another backward pass of the call before."""


@dataclass(frozen=True)
class Use:
    """An optimizer looked at its gradients: one `step()`, or one evaluation of a closure in it."""

    call: int
    optimizer: int
    """Position among the optimizers that were seen."""
    norm: float
    """Norm of all gradients of the model's parameters that it holds."""
    raw: float
    """The same as the last backward passes left it; 0 if there was none since the last use."""
    backwards: int
    """Backward passes since its last use that brought something to its parameters."""
    kept: int
    """Most of these that are still in one parameter's gradient."""
    before_backward: bool
    """The newest backward pass since its last use is one of an earlier call."""
    scheduled_before: bool
    """The scheduler was stepped in this call before it."""
    leftovers: tuple[Share, ...]
    twice: tuple[str, ...]
    """Parameters whose gradient had been used in this very call, with no backward pass in between."""
    in_closure: bool
    unclipped: float | None = None
    """Norm of the gradients that no clipping of this call was given; None if it was given none of this optimizer's."""
    line: tuple[str, int] | None = None
    """The user's line that called `step()`."""


@dataclass(frozen=True)
class Clip:
    """One call that clips gradients."""

    call: int
    threshold: float
    norm: float
    given: int
    """Gradients that it was given."""
    fresh: bool
    """At least one of them has not been used by an optimizer yet."""
    scale: float
    """The factor of a GradScaler that is still on the gradients; 1 for none."""
    by_value: bool


@dataclass
class Call:
    """One call of the training step."""

    index: int
    samples: int
    returned: float | None = None
    backwards: list[float] = field(default_factory=list)
    """Value of the root of each backward pass."""
    parts: list[int] = field(default_factory=list)
    """Samples that the model was given for each backward pass."""
    attacked: bool = False
    """A backward pass brought a gradient to an input: an attack, a penalty, a force."""
    reached: set[str] = field(default_factory=set)
    """The model's parameters that a backward pass brought a gradient other than zero."""
    roots_without_history: int = 0
    """Backward passes that started at a tensor with neither graph nor parameter behind it."""
    oldest: int | None = None
    """The earliest call to which the graph of a loss of this call reaches back."""
    nodes: int = 0
    """Size of the largest graph differentiated."""
    uses: list[Use] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    clipped: set[str] = field(default_factory=set)
    """The model's parameters that were given to a clipping."""
    scaler_steps: int = 0
    moved: bool = False
    """A parameter of the model is different after the call."""
    stepped_then_undone: bool = False
    """An optimizer changed its parameters, and after the call all are as they were before it."""
