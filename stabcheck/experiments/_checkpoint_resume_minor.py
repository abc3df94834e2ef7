"""The part of checkpoint-resume that judges what a run survives without: random numbers, data order, the scale of a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.check import Finding
from stabcheck.experiments._checkpoint_resume_rules import ORDER, RNG, SCALER

if TYPE_CHECKING:
    from stabcheck.trial.resume.cuts import Run
    from stabcheck.trial.resume.resume import Resumed


def judge(run: Run, results: list[Resumed]) -> list[Finding]:
    """What the user's own checkpoint was meant to bring back as well, the worst of it."""
    return (_scalers(run, results) or _randomness(run, results)) if run.own_checkpoint else []


def _scalers(run: Run, results: list[Resumed]) -> list[Finding]:
    """Loss scalers, the like of which a short run in full precision does not tell."""
    from stabcheck.trial.resume.lost import scalers

    for cut, result in zip(run.cuts, results, strict=True):
        found = scalers(cut, result)
        if found:
            return [
                SCALER.at(None, source=run.save_source, part=item.part, how=item.how, cut=cut.name) for item in found
            ]
    return []


def _randomness(run: Run, results: list[Resumed]) -> list[Finding]:
    """Random state and data order, where they were meant to be restored."""
    from stabcheck.trial.resume.resume import holds, restarts

    for cut, result in zip(run.cuts, results, strict=True):
        state = cut.rng.torch_state
        if result.rng is not None and not result.rng.torch_state.equal(state) and holds(cut.path, state):
            return [RNG.at(None, source=run.load_source, cut=cut.name)]
    if run.own_generator and restarts(run, results):
        return [ORDER.at(None, source=run.save_source)]
    return []
