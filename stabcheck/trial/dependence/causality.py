"""Whether a model that is trained to say what comes next can see it.

The objective is read off the gradient of the loss by the predictions, so it does not matter where the targets are
shifted: under cross-entropy it is negative at the target's class alone, and under a regression loss its sign is that of
prediction minus target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from stabcheck.trial.batches import tensors
from stabcheck.trial.dependence.difference import is_changed, scale
from stabcheck.trial.dependence.subject import Changed, Subject
from stabcheck.trial.dependence.trace import Op, first, traced
from stabcheck.userland import UserCodeError

SHORTEST = 4
"""Positions from which a tensor is taken for a sequence."""
AGREEMENT = 0.98
"""Share of predictions whose target must be what the sequence holds next. It is all of them where that is the objective; a
collate function may change a few. Any other objective agrees where a sequence happens to repeat itself only."""
PROPORTIONAL = 1e-3
"""Share of the gradient of a squared loss that rounding may put beside the error of the prediction: float32 leaves about
1e-6."""
MOVING = 0.2
"""Share of positions that must differ from the one before, or next and present could not be told apart."""

Oriented = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class NextStep:
    """A sequence among the model's inputs whose next element is what some output is trained to be."""

    name: str
    """Of the input."""
    output: str
    axis: int
    """Of the input, that counts samples; the other of the first two counts positions."""
    oriented: Oriented
    """Brings the output into the form (samples, positions, ...)."""
    active: torch.Tensor
    """(samples, positions): whether the loss reads the prediction."""


@dataclass(frozen=True)
class Leak:
    """Predictions that change with what they are to predict."""

    step: NextStep
    position: int
    """The last one that was left as it was."""
    change: float
    """Largest change of a prediction up to there, over the root mean square of the output."""
    culprit: Op | None
    """The first operation that brings later positions to earlier ones, as far as its axes tell."""


def next_steps(subject: Subject) -> list[NextStep]:
    """Sequences that hold their own targets one position on; empty if the model is trained to something else."""
    outputs = {name: t for name, t in _with_graph(subject) if t.requires_grad and t.dim() >= 2}
    found: list[NextStep] = []
    for output, tensor in outputs.items() if subject.call.loss.requires_grad else ():
        (gradient,) = torch.autograd.grad(subject.call.loss, [tensor], retain_graph=True, allow_unused=True)
        if gradient is None or not gradient.any():
            continue
        for name, sequence in subject.inputs().items():
            axis = subject.axis(sequence)
            if axis is None or sequence.dim() < 2 or sequence.dtype == torch.bool:
                continue
            if sequence.shape[1 - axis] < SHORTEST:
                continue
            rows = sequence.detach().movedim(axis, 0)
            match = _matching(rows, tensor.detach(), gradient.detach())
            if match is not None and _is_read(subject, name, axis, output):
                found.append(NextStep(name, output, axis, *match))
    return found


def _is_read(subject: Subject, name: str, axis: int, output: str) -> bool:
    """Whether the output depends on this input: labels, which only the loss reads, hold what comes next too."""
    try:
        other = subject.run(lambda n, t: t.detach().roll(1, axis) if n == name else t)
    except UserCodeError:
        return True
    return output not in other or bool(is_changed(subject.base[output], other[output]).any())


def leak(subject: Subject, step: NextStep) -> Leak | None:
    """Put other samples' continuations in the place of what follows some position, and look at the predictions up to there.

    Two positions are tried: where a sequence is cut into blocks that see nothing of each other, one may be an edge."""
    positions = step.active.any(0).nonzero().flatten().tolist()
    places = dict.fromkeys((positions[(len(positions) - 1) // 2], positions[(len(positions) - 1) // 3]))
    return next((found for last in places if (found := _leak_after(subject, step, last)) is not None), None)


def _leak_after(subject: Subject, step: NextStep, last: int) -> Leak | None:
    sequence = subject.given(step.name)
    if last + 1 >= sequence.shape[1 - step.axis]:
        return None

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name != step.name:
            return tensor
        rows = tensor.detach().clone().movedim(step.axis, 0)
        rows[:, last + 1 :] = rows[:, last + 1 :].roll(1, 0)
        return rows.movedim(0, step.axis)

    try:
        other = subject.run(change)
    except UserCodeError:
        return None
    base = subject.base[step.output]
    if step.output not in other or other[step.output].shape != base.shape:
        return None
    before, after = step.oriented(base), step.oriented(other[step.output])
    early = step.active.clone()
    early[:, last + 1 :] = False
    changed = is_changed(before, after)[early]
    if not bool(changed.any()):
        return None
    size = float((before - after)[early].abs().max()) / max(scale(base), 1e-30)
    return Leak(step, last, size, _culprit(subject, change, sequence.shape[1 - step.axis], last))


def _with_graph(subject: Subject) -> Iterator[tuple[str, torch.Tensor]]:
    """The floating outputs of the call whose loss is known, with their graph, by the names of `base`."""
    names = list(subject.base)
    found = [t for t in tensors(subject.call.output) if t.is_floating_point() and t.numel()]
    return zip(names, found, strict=False) if len(names) == len(found) else iter(())


def _matching(rows: torch.Tensor, output: torch.Tensor, gradient: torch.Tensor) -> tuple[Oriented, torch.Tensor] | None:
    """How the output is to be oriented so that its targets are `rows` (samples, positions, ...) one position on."""
    count, length = rows.shape[:2]
    for positions in (length, length - 1):
        for oriented in _orientations(output, count, positions):
            active = oriented(gradient).flatten(2).abs().sum(2) > 0
            # What comes after the last is an end or padding, which the sequence need not hold.
            inside = active & (active.flip(1).long().cumsum(1).flip(1) > 1)
            if not inside.any():
                continue
            upcoming, present = rows.roll(-1, 1)[:, :positions], rows[:, :positions]
            if rows.is_floating_point():
                predicted, slope = (oriented(t).flatten(2) for t in (output, gradient))
                now, then = (t.unsqueeze(2).flatten(2)[:, :, : predicted.shape[2]] for t in (present, upcoming))
                fits = now.shape == predicted.shape and _is_next(*(t[inside] for t in (predicted, slope, now, then)))
            elif rows.dim() == 2:
                named = oriented(gradient).flatten(2).argmin(2)
                hits, moving = (t[inside].float().mean() for t in (named == upcoming, upcoming != present))
                fits = bool(hits >= AGREEMENT and moving >= MOVING)
            else:
                continue
            if fits:
                return oriented, active
    return None


def _is_next(output: torch.Tensor, gradient: torch.Tensor, present: torch.Tensor, upcoming: torch.Tensor) -> bool:
    """Whether a regression loss with this gradient has `upcoming` for its target, and cannot have `present`."""
    if upcoming.shape != output.shape or float((upcoming != present).float().mean()) < MOVING:
        return False
    output, gradient, present, upcoming = (t.double() for t in (output, gradient, present, upcoming))
    apart, near = (_residual(output - target, gradient) for target in (present, upcoming))
    if near <= PROPORTIONAL:
        return apart > 10 * PROPORTIONAL
    signs, others = ((gradient.sign() == (output - target).sign()).double().mean() for target in (upcoming, present))
    return bool(signs >= AGREEMENT and others < 1 - 5 * (1 - AGREEMENT))


def _residual(error: torch.Tensor, gradient: torch.Tensor) -> float:
    """Share of the gradient that is not a multiple of the error: none under a squared loss."""
    factor = (error * gradient).sum() / error.square().sum().clamp_min(1e-300)
    return float((gradient - factor * error).norm() / gradient.norm())


def _orientations(output: torch.Tensor, count: int, positions: int) -> Iterator[Oriented]:
    shape = output.shape
    if shape[:2] == (count, positions):
        yield lambda t: t if t.dim() > 2 else t.unsqueeze(2)
    if output.dim() == 3 and shape[0] == count and shape[2] == positions:
        yield lambda t: t.transpose(1, 2)
    if shape[:2] == (positions, count):
        yield lambda t: t.transpose(0, 1) if t.dim() > 2 else t.t().unsqueeze(2)
    if output.dim() == 2 and shape[0] == count * positions:
        yield lambda t: t.view(count, positions, -1)
        yield lambda t: t.view(positions, count, -1).transpose(0, 1)


def _culprit(subject: Subject, change: Changed, length: int, last: int) -> Op | None:
    """The first operation whose result changed at places up to `last`, along every axis of the sequence's length."""
    traces = [traced(subject), traced(subject, change)]
    if None in traces:
        return None

    def shows(results: tuple[torch.Tensor, ...]) -> bool:
        base, other = results
        axes = [i for i, size in enumerate(base.shape) if size == length]
        changed = base != other
        return bool(axes) and all(bool(changed.narrow(axis, 0, last + 1).any()) for axis in axes)

    return first(tuple(t[0] for t in traces if t is not None), shows)
