"""What several diagnoses ask of a Recording: how far training got, and where the gradient thins out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from stabcheck import stats
from stabcheck.check import NotChecked
from stabcheck.recording import Recording

TAIL = 10
"""Steps at the end of the trial over which losses are averaged."""
STALLED = 0.1
"""Progress below this share of the way is none: 15 % of healthy trainings, and all that cannot train, are below it
after 40 steps (1,234 trainings), so it only ever confirms another sign."""
LARGE_UPDATE = 0.3
"""Largest update over weight norm: above it, with a loss above the constant guess, lie 78 % of the trainings whose rate was
too high and 9 % of the others."""
GROWN = 1.5
"""Times the larger of the first loss and the constant-prediction loss: what counts as growth of the loss."""
FLAT = 1e-3
"""A floor that is no further below the best constant guess than this share of their size, and of the distance between the guess
and the first loss, is the same level: what is learnt about the inputs cannot show in such a loss."""
FALLING = 0.05
"""A fall of the loss within the last half of the trial, as a share of the constant-prediction level, that counts as
movement when it also exceeds twice its standard error."""

SCALE_FREE = {
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Rprop",
    "Adafactor",
    "Lion",
    "Muon",
}
"""Optimizers that divide the gradient's scale out, to which clipping by a constant factor does nothing."""


LATER = NotChecked(
    "spikes, divergence and overfitting later in the run",
    "the first steps show no sign of them: compare both losses in the run",
)
"""What no trial can show. Several checks say so, in the same words, so that the report says it once."""


def called(module: str | None, kinds: Mapping[str, str] | None = None) -> str:
    """How a sentence speaks of a module: with its class where its path ends in a number and `kinds` knows it. A bare number,
    as in an nn.Sequential, is "layer 3 (ReLU)"."""
    if not module:
        return "the model"
    kind = (kinds or {}).get(module)
    return (f"layer {module}" if module.isdigit() else module) + (f" ({kind})" if kind else "")


def is_label_name(name: str) -> bool:
    """Whether an input of a model is called as targets are: a model that returns its loss is given them too."""
    return any(word in name.lower() for word in ("label", "target")) or name.lower().rpartition(".")[2] == "y"


def batch_part(path: str) -> str:
    """How a sentence speaks of a part of a batch."""
    first, _, rest = path.partition(".")
    if not first:
        return "the batch"
    if first.isdigit():
        return f"batch[{first}]" + (f" ({rest})" if rest else "")
    return f"'{path}'"


FIRST_STEPS = 5
"""The start of the trial, to tell units that were born dead from those that an update killed."""
WINDOW = 10
"""A unit is called dead by the last so many steps: precision .94 and recall .97 on 18,700 units. Over a whole trial the
recall falls to .57, because units that an update killed fired before it."""
WINDOW_SAMPLES = 300
"""A unit that fires for 1 % of the inputs is silent on as many with probability 5 %: small batches need more steps."""


def too_few(steps: int) -> str:
    """That so many are, up to what they are too few for."""
    return f"{steps} step{'s are' if steps > 1 else ' is'} too few"


def silent_window(samples_per_step: int, steps: int) -> int:
    """Steps at the end of the trial that decide whether a unit is dead."""
    return min(max(WINDOW, math.ceil(WINDOW_SAMPLES / max(samples_per_step, 1))), steps)


@dataclass(frozen=True)
class Scale:
    """Where a loss is between the best constant guess (0) and the lowest it can reach (1).

    The yardsticks give both; what stands in for one that is missing, or is none, depends on what is concluded. A short
    training without a known constant guess shows nothing about learning, while a trial is read from its first loss; a floor
    that was sought in vain must not make a good training look like none. So each user makes its own Scale and says how.
    """

    constant: float
    floor: float

    @property
    def gap(self) -> float:
        """The whole way."""
        return self.constant - self.floor

    def share(self, loss: float) -> float:
        """The share of the way that `loss` has come; minus infinity if it is not finite or there is no way."""
        return (self.constant - loss) / self.gap if math.isfinite(loss) and self.gap > 0 else -math.inf


def floor_below(level: float) -> float:
    """What stands in for a floor that is not known: zero, and as far below a level that is negative itself."""
    return min(0.0, level - abs(level))


@dataclass(frozen=True)
class Progress:
    """How far the loss came, from the best constant prediction (0) to its own floor (1)."""

    share: float | None
    first: float
    last: float
    constant: float | None
    falling: bool

    @property
    def is_low(self) -> bool:
        """The model has learnt nothing about its inputs yet."""
        return self.share is not None and not self.share >= STALLED

    @property
    def stalled(self) -> bool:
        """And nothing is under way."""
        return self.is_low and not self.falling


def progress(recording: Recording) -> Progress:
    """Progress over the trial. Where no constant prediction is known the first loss stands in for it: an untrained
    model is seldom better than a constant."""
    losses = recording.losses
    if not losses:
        return Progress(None, math.nan, math.nan, recording.yardsticks.constant, falling=False)
    first, last = losses[0], stats.mean(losses[-TAIL:])
    constant = recording.yardsticks.constant
    reference = constant if constant is not None else first
    floor = recording.yardsticks.oracle
    scale = Scale(reference, floor_below(reference) if floor is None else floor)
    is_flat = scale.gap <= FLAT * min(max(abs(reference), abs(scale.floor)), abs(first - reference))
    share = scale.share(last) if scale.gap > 0 and math.isfinite(scale.gap) and not is_flat else None
    # Down to the level of a constant guess any bias gets, also above dead layers.
    falling = share is not None and share >= 0 and _falling(losses, scale.gap)
    return Progress(share, first, last, constant, falling)


FAR_START = 10.0
"""Times the loss of the best constant or of an all-zero guess, above the floor, that a first loss must be to be far off: an
untrained model is as good as a guess, and what is far above has to come down before anything is learnt."""


def starts_far_off(recording: Recording) -> bool:
    """Whether the first loss is far above that of any guess."""
    levels = recording.yardsticks
    if levels.constant is None or not recording.losses:
        return False
    floor = levels.oracle if levels.oracle is not None else min(0.0, levels.constant)
    top = max(levels.constant, levels.zero if levels.zero is not None else levels.constant)
    return top > floor and recording.losses[0] - floor > FAR_START * (top - floor)


def _falling(losses: tuple[float, ...], gap: float) -> bool:
    if len(losses) < 2 * TAIL:
        return False
    early, late = losses[-2 * TAIL : -TAIL], losses[-TAIL:]
    fall = stats.mean(early) - stats.mean(late)
    error = math.sqrt((_variance(early) + _variance(late)) / TAIL)
    return fall > 2 * error and fall > FALLING * gap


def _variance(values: tuple[float, ...]) -> float:
    centre = stats.mean(values)
    return math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)


@dataclass(frozen=True)
class Neck:
    """The narrowest place on the way of the gradient from the loss to the first layer.

    depth = min over i of [max(ln g_1..i) - max(ln g_i..n)], g_i the norm of dLoss/d(output of layer i): very
    negative only if everything up to layer i is starved, which a branch that is off does not bring about.
    """

    depth: float
    before: str
    """The last starved layer."""
    after: str
    """The first layer that still gets a gradient."""


def neck(recording: Recording, sample: int) -> Neck | None:
    """The neck at the given sample; None with fewer than two layers that have a gradient. Infinite ones are left out."""
    rows = [
        (signal.module, stats.log(value))
        for signal in recording.signals
        if (value := signal.grad_norm[sample]) is not None and math.isfinite(value)
    ]
    if len(rows) < 2 or all(value == -math.inf for _, value in rows):
        return None
    logs = [max(value, _FLOOR) for _, value in rows]
    depths = [max(logs[: i + 1]) - max(logs[i:]) for i in range(len(logs))]
    # Seen from the loss: the first layer that gets too little, however much less the ones before it get.
    place = max(i for i, depth in enumerate(depths) if depth <= max(min(depths), WARN_NECK))
    return Neck(min(depths), rows[place][0], rows[min(place + 1, len(rows) - 1)][0])


WARN_NECK = -5.0
"""ln of the ratio across the neck from which a layer counts as starved."""
_FLOOR = -100.0
"""ln of the smallest float32 is -103; an exact zero is put there."""


def variance_share(recording: Recording, sample: int) -> float | None:
    """Share of the last layer's output that depends on the input; None if it was not recorded."""
    for signal in reversed(recording.signals):
        value = signal.variance_share[sample]
        if value is not None:
            return value
    return None


def is_bad_from_nowhere(recording: Recording, step: int) -> bool:
    """Whether a loss or gradient that is not finite at `step` comes without growth before it: at the first step, or after
    small updates and losses that were no higher than at the start or than a constant guess's."""
    before = [s.loss for s in recording.steps[: step + 1] if s.loss is not None and math.isfinite(s.loss)]
    bounds = [v for v in (*before[:1], recording.yardsticks.constant, recording.yardsticks.zero) if v is not None]
    if step > 0 and (largest_update(recording, step) or 0.0) > LARGE_UPDATE:
        return False
    return not before or max(before[-3:]) <= GROWN * max(bounds)


def largest_update(recording: Recording, before: int | None = None) -> float | None:
    """Largest relative change of a weight matrix in one recorded step, up to step `before`; None if no matrix moved."""
    ratios = [
        update / weight
        for p in recording.parameters
        if len(p.shape) >= 2
        for step, weight, update in zip(recording.sampled, p.weight_norm, p.update_norm, strict=True)
        if weight is not None and update is not None and weight > 1e-6 and math.isfinite(update)
        if before is None or step < before
    ]
    return max(ratios, default=None)
