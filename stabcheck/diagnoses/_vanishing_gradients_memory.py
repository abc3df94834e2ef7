"""The part of vanishing-gradients that judges how far back in time the gradient of a recurrence reaches."""

from __future__ import annotations

import math
from typing import Any

from stabcheck import stats
from stabcheck.check import Finding, Rule
from stabcheck.reading import TAIL, Progress, called
from stabcheck.recording import Recording

STEEP = math.log(4)
"""Loss of ln gradient at each step back from which a recurrence fades by design: a sigmoid has a slope of 1/4 at most. The gates
of fresh LSTMs and GRUs halve it, tanh with PyTorch's weights takes a little less."""
ROUNDING = 24 * math.log(2)
"""ln of the gradient below which float32 loses it beside the strongest."""
FORGOTTEN = -14.0
"""ln of the gradient at the first time step against the strongest: -9.9 still learns to recall over 20 steps, -18 does
not. It stays a warning: whether a task needs the far past is a property of the data."""

FORGETFUL = Rule(
    "SC0704",
    "forgotten-time-steps",
    "warn",
    "in {at} the gradient fades over {length} time steps: only about the last {memory} reach the loss, and "
    "nothing was learnt yet",
    "if the task needs older inputs: GRU or LSTM cells instead of plain ones, attention, shorter sequences, or an "
    "orthogonal recurrent initialisation",
    why="A recurrent layer whose gradient fades within a few steps cannot learn what lies further back.",
)
FADING = Rule(
    "SC0706",
    "fading-recurrence",
    "fail",
    "in {at}, which runs {length} times in a row, the gradient shrinks {factor:.0f} times at each step back: only the last "
    "{memory} steps reach the loss, what came before is lost in rounding, and nothing was learnt in {steps} steps (loss "
    "{last:.3g}, best constant guess {constant:.3g})",
    "use gated cells (nn.GRU, nn.LSTM); in a plain recurrence tanh or ReLU in place of sigmoid, and an orthogonal initialisation "
    "of the weights from state to state",
    why="What the network is told early in a sequence never reaches its weights.",
)


def judge(recording: Recording, state: Progress) -> tuple[Finding, ...]:
    """The recurrence that cannot learn, or else those that forget."""
    return _fading(recording, state) or _forgetful(recording, state)


def _forgetful(recording: Recording, state: Progress) -> tuple[Finding, ...]:
    if not state.stalled:
        return ()
    return tuple(
        FORGETFUL.at(
            r.module,
            at=called(r.module, recording.kinds),
            length=len(r.at_end),
            memory=reach(r.at_end),
            decay=r.at_end[0] - max(r.at_end),
        )
        for r in recording.recurrences
        if not r.by_hand and len(r.at_end) > 1 and r.at_end[0] - max(r.at_end) < FORGOTTEN
    )


def _fading(recording: Recording, state: Progress) -> tuple[Finding, ...]:
    """The first recurrence that forgets more than half of its steps, and so by a constant factor at each."""
    for r in recording.recurrences if _is_at_a_guess(recording, state) else ():
        at = max(range(len(r.at_end)), key=r.at_end.__getitem__)
        # Back to where the gradient is as good as gone, and no further: beyond the smallest number there is no slope.
        reached = [i for i in range(at) if r.at_end[i] > r.at_end[at] - 2 * ROUNDING]
        if not reached or r.at_end[0] > r.at_end[at] - ROUNDING:
            continue
        back = at - min(reached)
        memory = sum(value > r.at_end[at] - ROUNDING for value in r.at_end)
        slope = (r.at_end[at] - r.at_end[at - back]) / back
        if slope >= STEEP and 2 * memory <= len(r.at_end) and back >= 4:
            facts: dict[str, Any] = {
                "steps": len(recording.steps), "last": state.last, "factor": math.exp(slope), "memory": memory,
                "constant": state.constant if state.constant is not None else state.first, "length": len(r.at_end),
            }  # fmt: skip
            return (FADING.at(r.module, at=called(r.module, recording.kinds), **facts),)
    return ()


def _is_at_a_guess(recording: Recording, state: Progress) -> bool:
    """Whether the last losses are those of a constant guess, up to what they scatter."""
    if state.stalled or state.constant is None or state.falling:
        return state.stalled
    last = recording.losses[-TAIL:]
    scatter = math.sqrt(stats.mean([(loss - state.last) ** 2 for loss in last]))
    return state.constant - state.last < 2 * scatter / math.sqrt(len(last))


def reach(profile: tuple[float, ...]) -> int:
    """Time steps whose gradient is within a factor of e^7 (about 1,100) of the strongest."""
    return sum(value > max(profile) - 7 for value in profile)
