"""Whether a resumed run takes the course of the uninterrupted one, and if it does not, why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.resume.compare import Difference, differences, distance, same, same_numbers
from stabcheck.trial.resume.cuts import Cut, Run
from stabcheck.trial.resume.lost import value
from stabcheck.trial.resume.resume import Resumed, next_batches, resume
from stabcheck.trial.resume.state import State
from stabcheck.trial.resume.uninterrupted import again

MOST_CANDIDATES = 12
"""Parts that are tried one by one for having caused a difference; each costs one more resumed run."""

UNEXPLAINED = 1e-2
"""Drift of the weights from which a difference without a visible cause is mentioned. Rounding noise of 1e-7 in the weights
grows to a drift of 3e-3 under Adam within 6 steps (measured on MLP, CNN, LSTM and transformer)."""


@dataclass(frozen=True)
class Cause:
    """Why a resumed run parts from the uninterrupted one."""

    kind: Literal["unsaved", "saving", "unknown", "none"]
    """"unsaved": a value that mends the run when it is put back. "saving": save() changed the run. "unknown": nothing in
    sight. "none": no fault; `why` says what it is instead."""
    part: str = ""
    saved: str = ""
    loaded: str = ""
    advice: str = ""
    why: str = ""


def same_course(run: Run, cut: Cut, result: Resumed) -> bool:
    """Whether the losses, the loss in eval mode, and the weights and buffers at the end are equal bit for bit."""
    return (
        same_numbers(run.losses(cut), result.losses)
        and same_numbers([cut.eval_loss], [result.eval_loss])
        and _alike(cut.end, result.end)
    )


def drift(cut: Cut, result: Resumed) -> float:
    """Distance of the resumed weights from the uninterrupted ones, in units of how far these moved after the cut."""
    moved = distance(_weights(cut.end), _weights(cut.saved))
    return distance(_weights(cut.end), _weights(result.end)) / moved if moved else 0.0


def measured(run: Run, cut: Cut, result: Resumed) -> dict[str, Any]:
    """The numbers of one resumed run, for the report."""
    return {
        "place": cut.name,
        "steps_before": cut.at,
        "steps_after": run.after,
        "losses": run.losses(cut),
        "resumed_losses": result.losses,
        "bit_equal": same_course(run, cut, result) if result.losses else None,
        "weight_drift": drift(cut, result) if result.losses else None,
        "random_state_restored": bool(result.rng.torch_state.equal(cut.rng.torch_state)) if result.rng else None,
        "next_batches": next_batches(run, cut, result),
    }


def causes(bench: Bench, run: Run, cut: Cut, result: Resumed) -> list[Cause]:
    """Why `result` does not take the course of `run`, given that all documented state is restored.

    Raises:
        UserCodeError: building the set-up again failed.
        Skip: there is no time to.
    """
    parts = _candidates(run, cut, result)
    mending = _mending(bench, run, cut, parts) if parts else []
    if len(mending) > MOST_CANDIDATES:
        some = f"one of {', '.join(mending[:3])} and {len(mending) - 3} more"
        return [_cause(run, cut, some, parts[mending[0]])]
    if mending:
        return [_cause(run, cut, name, parts[name]) for name in mending]
    if not run.own_checkpoint:  # it never promised what the callbacks close over
        return []
    losses, at_cuts, ends = again(bench, run)
    recorded = [moment.loss for moment in run.moments]
    first = run.cuts[0]
    if not (same_numbers(losses[: first.at], recorded[: first.at]) and _alike(first.before, at_cuts[0])):
        why = "the uninterrupted run does not repeat itself exactly; the state right after load was compared"
        return [Cause("none", why=why)]
    if not same_numbers(losses, recorded) or not all(_alike(c.end, end) for c, end in zip(run.cuts, ends, strict=True)):
        return [Cause("saving")]
    if run.iterators:
        why = f"they are not, and the position of the running iterator {run.iterators[0]} cannot be seen"
        return [Cause("none", why=why)]
    if drift(cut, result) <= UNEXPLAINED:
        return [Cause("none", why="they differ by no more than rounding may grow to")]
    return [Cause("unknown")]


def _candidates(run: Run, cut: Cut, result: Resumed) -> dict[str, list[Difference]]:
    """Differences after load in what no checkpoint has to hold, by the name to give them."""
    parts: dict[str, list[Difference]] = {}
    for d in differences(cut.saved, result.loaded, result.fresh):
        # An entry of a container that is not filled yet can be added to it.
        added = d.path.endswith("]") and d.kind in {"number", "tensor"}
        if not (added or d.path in result.loaded) or d.kind not in {
            "number",
            "tensor",
            "mode",
            "option",
            "buffer",
            "scaler",
        }:
            continue
        # The textbook checkpoint answers for the model, not for what the callbacks close over.
        if run.own_checkpoint or d.path.startswith("model."):
            root, flag = d.path.partition(".")[0], d.path.rpartition(".")[2]
            name = f"{root}.{flag}" if d.kind in {"mode", "buffer"} else re.sub(r"\[\d+\]$", "", d.part)
            parts.setdefault(name, []).append(d)
    return parts


def _mending(bench: Bench, run: Run, cut: Cut, parts: dict[str, list[Difference]]) -> list[str]:
    """The parts without which the resumed run stays wrong when all others are put back; none if all do not mend it."""
    everything = [d.path for items in parts.values() for d in items]
    if not same_course(run, cut, resume(bench, run, [cut], [everything])[0]):
        return []
    names = list(parts)
    if not 1 < len(names) <= MOST_CANDIDATES or len(names) * bench.load_seconds > bench.remaining():
        return names
    trials = [[path for path in everything if path not in {d.path for d in parts[name]}] for name in names]
    results = resume(bench, run, [cut], trials)
    return [name for name, one in zip(names, results, strict=True) if not same_course(run, cut, one)] or names


def _cause(run: Run, cut: Cut, name: str, items: list[Difference]) -> Cause:
    size = batches.size(run.moments[cut.at - 1].batch)
    # As large as the batch it came from: the last state of a recurrent net, which nobody saves.
    if size > 1 and all(size in (cut.saved[d.path].shape or ()) for d in items):
        return Cause("none", why=f"{name}, carried over from the last batch, starts anew in a resumed run")
    first = items[0]
    advice = f"save {name} in the checkpoint and set it in load()"
    if first.kind == "mode":
        advice = f"set {name} at the end of load(), or at the start of every step"
    elif first.kind == "tensor" and name.startswith("model."):
        advice = f"register {name} as a buffer, so that it is in the state_dict"
    return Cause("unsaved", name, value(first.expected, first.kind), value(first.actual, first.kind), advice)


def _alike(one: State, two: State) -> bool:
    return all(same(leaf, two.get(path)) for path, leaf in one.items() if leaf.kind in {"weight", "buffer"})


def _weights(state: State) -> State:
    return {path: leaf for path, leaf in state.items() if leaf.kind == "weight"}
