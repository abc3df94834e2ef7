"""The Recording: everything the trial observed, as plain numbers.

Diagnoses read it and nothing else, so a saved Recording can be judged again without torch, model or
data. Norms are L2 norms in float32. Sequences "per step" have one entry for each entry of
`Recording.steps`; sequences "per sample" one for each entry of `Recording.sampled`, the step indices at
which the expensive quantities were read. `None` means that the quantity was not there at that step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Any

RECORDING_VERSION = 1

OPTIMIZER_STEPS = "optimizer steps"
CONSTANT_LEVEL = "the level of a constant prediction"
"""Parts that a Recording may lack, as `Recording.not_recorded` calls them."""


@dataclass(frozen=True)
class Step:
    """One call of the user's train_step, or of the textbook one."""

    index: int
    loss: float | None
    """The loss that the step returned, before its update; None if it returned none."""
    samples: int
    """Size of the first axis of the batch."""
    lr: tuple[float, ...]
    """Learning rate of each parameter group when the optimizer stepped; empty if it did not."""
    grad_norm: float | None
    """Norm of all gradients together as backward left them, loss scaling undone."""
    clipped_norm: float | None
    """The same as the optimizer saw it."""
    stepped: bool


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor of the model."""

    name: str
    shape: tuple[int, ...]
    module: str
    trainable: bool
    """requires_grad when the trial began."""
    optimized: bool
    """Held by the set-up's optimizer, or by one that stepped in the trial."""
    zero_at_start: bool
    constant_at_start: bool
    matters: bool | None
    """Whether the loss changes when the parameter is disturbed; measured only where no gradient ever came, or only zeros."""
    grad_norm: tuple[float | None, ...]
    """Per step, as backward left it."""
    clipped_norm: tuple[float | None, ...]
    """Per step, as the optimizer saw it."""
    weight_norm: tuple[float | None, ...]
    """Per sample, before the update."""
    update_norm: tuple[float | None, ...]
    """Per sample: norm of the change that the optimizer made."""


@dataclass(frozen=True)
class Signal:
    """The output of one leaf module that has parameters, in order of execution."""

    module: str
    kind: str
    out_rms: tuple[float | None, ...]
    variance_share: tuple[float | None, ...]
    """Mean over units of Var_batch(out), over the mean of out²: 0 if every input gives the same output."""
    grad_norm: tuple[float | None, ...]
    """Norm of dLoss/d(out) over the whole tensor."""


@dataclass(frozen=True)
class Rectifier:
    """One call of a function that is flat on one side (relu, clamp at 0, ...), told apart by its place in the step."""

    module: str
    """The innermost module that was running; "" is the model itself."""
    call: int
    """0 for the first such call in that module during one step."""
    kind: str
    after: str | None
    """The last Signal module executed before it."""
    units: int
    """Channels for feature maps, else the size of the last axis; other axes are pooled."""
    bypassed: bool | None
    """Whether the gradient can reach earlier layers without passing through it; None if not known."""
    observed: tuple[int, ...]
    """Step indices at which it was watched."""
    first_fired: tuple[int, ...]
    """Per unit: the first watched step with an output above zero, -1 if none."""
    last_fired: tuple[int, ...]
    """Per unit: the last such step, -1 if none."""


@dataclass(frozen=True)
class Recurrence:
    """How far back in time the gradient of the states that the loss looks at reaches in a recurrent module."""

    module: str
    kind: str
    at_end: tuple[float, ...]
    """ln of the norm of d(these states)/d(input at t), t = 0 .. T-1, with the weights after the trial; for a layer that is called
    in a loop, of dLoss/d(its output at call t) in the last recorded step."""
    by_hand: bool = False
    """A layer that one forward calls again and again, and no module that runs over time by itself."""


@dataclass(frozen=True)
class Dropped:
    """A trainable module that runs in the forward and never gets a gradient, because nothing takes what comes of it."""

    module: str
    last: str
    """The module around it whose whole output is thrown away, or itself."""
    by: str
    """The module whose forward throws it away; "" is the model itself, or what calls it."""
    fits: bool
    """A tensor of the shape that was thrown away went on in its place."""


@dataclass(frozen=True)
class Yardsticks:
    """Levels of the user's own loss that make it scale-free; None where it could not be found."""

    constant: float | None
    """Loss of the best constant prediction."""
    zero: float | None
    """Loss of an all-zero prediction."""
    oracle: float | None
    """The lowest that the loss reaches when predictions are free."""
    note: str = ""
    """How they were found, or why they were not."""


@dataclass(frozen=True)
class OptimizerFacts:
    """An optimizer of the set-up, by its own numbers."""

    kind: str
    groups: tuple[dict[str, Any], ...]
    """Per parameter group: its scalar options, and "parameters", how many tensors it holds."""
    is_torch: bool = True
    """Its class is one of torch.optim's own, so its options mean what they mean there."""
    decoupled: bool = False
    """weight_decay shrinks the weights themselves, as in AdamW, and is not added to the gradient."""
    below_eps: float | None = None
    """Share of the weights whose root mean square gradient was below eps at the end of the trial; None if it keeps none."""
    typical_gradient: float | None = None
    """Median of these roots."""


@dataclass(frozen=True)
class PrecisionFacts:
    """Half precision and loss scaling as the trial saw them."""

    autocast: tuple[str, ...] = ()
    """Types to which regions of autocast cast: "float16", "bfloat16"."""
    scaled: bool = False
    """A GradScaler scaled a loss."""
    last_scale: float | None = None
    skipped: tuple[int, ...] = ()
    """Steps at which a GradScaler kept the optimizer from stepping."""
    around_scaler: tuple[int, ...] = ()
    """Steps at which a loss was scaled and an optimizer stepped without the GradScaler."""


@dataclass(frozen=True)
class Clipping:
    """How gradients are clipped, as seen in the trial or declared in the set-up."""

    declared: float | None
    observed: float | None
    """Threshold passed to clip_grad_norm_, if it was called."""


@dataclass(frozen=True)
class Recording:
    """One trial: a few dozen real training steps under observation."""

    target: str
    seed: int
    loop: str
    """"train_step" (the user's own) or "textbook"."""
    planned: int
    """Steps that the trial was to take; `steps` is shorter if it failed."""
    steps: tuple[Step, ...]
    sampled: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    signals: tuple[Signal, ...]
    rectifiers: tuple[Rectifier, ...]
    recurrences: tuple[Recurrence, ...]
    yardsticks: Yardsticks
    optimizers: tuple[OptimizerFacts, ...]
    clipping: Clipping
    tokens: bool
    """The model reads token ids: its first Signal is an embedding."""
    accumulate_steps: int
    planned_steps: int | None
    """Optimizer steps of the real run, from max_steps or max_epochs; None if not given."""
    warmup_share: float | None
    """Rate in the trial over the planned peak, where the schedule is known: below 1 the trial ran in the warm-up."""
    first_non_finite: tuple[str, str, int] | None
    """(what, where, step): the first loss, activation, gradient or weight that was NaN or infinite."""
    failure: str | None
    """Why the trial ended early, if it did."""
    sources: dict[str, tuple[str, int]]
    """Module path -> file and line of its class, where the user wrote it, else of the user's call that built it; left out
    where it is the line of the module around it."""
    not_recorded: tuple[tuple[str, str], ...]
    """(what, why) for everything that could not be observed; a check that reads it says so (`check.diagnosis`)."""
    precision: PrecisionFacts = PrecisionFacts()
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Key of the set-up -> the user's line that it comes from; "entry" is the entry function."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Path of a module that ends in a number -> its class."""
    dropped: tuple[Dropped, ...] = ()
    rank: int = 0
    version: int = RECORDING_VERSION

    @property
    def losses(self) -> tuple[float, ...]:
        """The losses of the steps that returned one."""
        return tuple(step.loss for step in self.steps if step.loss is not None)

    def source(self, module: str | None) -> tuple[str, int] | None:
        """The user's line that `module` comes from, or that of the nearest module around it of which it is known."""
        return self.sources.get(nearest(module or "", self.sources))


def nearest(module: str, known: Collection[str]) -> str:
    """The path, or that of the nearest module around it that is `known`; "" for the model itself."""
    while module and module not in known:
        module = module.rpartition(".")[0]
    return module


@cache
def _adapter() -> Any:
    from pydantic import ConfigDict, TypeAdapter

    Recording.__pydantic_config__ = ConfigDict(ser_json_inf_nan="strings")  # type: ignore[attr-defined]
    return TypeAdapter(Recording)


def to_json(recording: Recording) -> str:
    """One JSON document; NaN and infinities are the strings "NaN" and "Infinity"."""
    text: bytes = _adapter().dump_json(recording)
    return text.decode()


def from_json(text: str) -> Recording:
    """The Recording that `to_json` wrote.

    Raises:
        ValueError: the text is no Recording, or one of another version; the message says which.
    """
    import json

    try:
        version = json.loads(text).get("version")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"not a Recording: {error}") from None
    if version != RECORDING_VERSION:
        raise ValueError(f"a Recording of version {version!r}; this stabcheck reads version {RECORDING_VERSION}")
    from pydantic import ValidationError

    try:
        recording: Recording = _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"not a Recording: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return recording
