"""What the sentences about a fault of the planned rates are filled with, its severity, and its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabcheck.trial.schedule.forecast import Forecast


def facts_of(run: Forecast) -> dict[str, Any]:
    """Evidence for the rule that `run.fault` breaks, with "severity" and "place" where they are not the rule's own."""
    assert run.fault is not None
    facts: dict[str, Any] = {
        "scheduler": run.name,
        "calls": run.reading.calls,
        "cadence": run.cadence,
        "rate": float(run.used[0].max()),
        **run.fault.facts,
    }
    if "call" in facts:
        facts["when"] = run.when(facts["call"])
    more = _WORDS.get(run.fault.kind)
    facts |= more(run, facts) if more is not None else {}
    return {name: fact for name, fact in facts.items() if name not in _TO_DECIDE}


def _resized(run: Forecast, factor: float) -> str:
    from stabcheck.trial.schedule.sizes import resized

    return resized(run.session.setup.scheduler, factor)


def _other_optimizer(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    return {"name": type(run.session.setup.scheduler).__name__}


def _raises(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    scheduler, calls, groups = run.session.setup.scheduler, run.reading.calls or 1, run.used.shape[1]
    # A loop that drops the last, incomplete accumulation of each epoch never makes the last calls.
    least = run.plan.least_steps
    sure = least is None or run.reading.unit == "epoch" or facts["call"] <= least
    known = len(getattr(scheduler, "base_lrs", None) or run.used[0])
    new = _resized(run, calls / max(1, facts["call"] - 1))
    remedy = f"the run calls the scheduler {calls} times: make it last for that many{f', as with {new}' if new else ''}"
    if known != groups:
        remedy = (
            f"the optimizer has {groups} parameter groups, the scheduler knows {known}: add groups before it is built"
        )
    return {"remedy": remedy, "severity": "fail" if sure else "warn"}


def _impossible(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    if run.used.shape[1] == 1:
        return {"group": ""}
    return {"place": f"group {facts['group']}", "group": f" in group {facts['group']}"}


def _pace(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    calls, count, unit = run.reading.calls or 1, facts["count"], facts["unit"]
    ratio = max(calls / count, count / calls)
    new = _resized(run, calls / count)
    size = f"{calls} calls" + (f": {new}" if new else "")
    accumulate = run.session.setup.accumulate_steps
    return {
        "severity": "warn" if facts.get("mild") else "fail",
        "unit": {"epoch": "epochs", "optimizer step": "optimizer steps", "batch": "batches"}[unit],
        "count": round(count),
        "caller": run.caller,
        "ratio": f"{ratio:.0f}" if ratio >= 9.5 else f"{ratio:.2g}",
        "way": "often" if calls > count else "rarely",
        "symptom": _symptom(facts),
        "remedy": f"a batch is not an optimizer step here (accumulate_steps={accumulate}): size it for {size}"
        if unit == "batch"
        else f"step it once per {unit}, or size it for {size}",
    }


def _symptom(facts: dict[str, Any]) -> str:
    when = facts.get("when", "")
    match facts["symptom"]:
        case "raises":
            return f"it raises {when} ({facts['error']})"
        case "impossible":
            return f"the rate is {facts['rate']:.3g} {when}"
        case "swings":
            return "the rate goes down and up again" + (f" {facts['swings']} times" if facts["swings"] > 1 else "")
        case "spent":
            return f"the rate is used up {when}"
        case "settled":
            return f"all of its decay is over {when}"
        case "warming":
            return f"the run ends in its warm-up, at {facts['reached']:.1%} of the peak rate"
        case _:
            return f"the rate is still at {100 * facts['last']:.3g} % of its peak when the run ends"


def _spent(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    return {"severity": "fail" if facts["dead"] else "warn"}


def _climbs(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    # One valley and back to the top is a length that was halved; several may be cycles that are meant.
    return {"severity": "fail" if facts["swings"] == 1 and facts["again"] >= 0.5 else "warn"}


def _not_reached(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    reached = facts["last"] / facts["target"]
    return {"reached": reached, "severity": "fail" if reached < 0.5 else "warn"}


def _overtaken(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    return {"severity": "fail" if facts["share"] < 0.1 else "warn"}


def _cut_short(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    new = _resized(run, (run.reading.calls or 1) / facts["needs"])
    return {"resized": f", as in {new}" if new else ""}


def _fades(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    scheduler, epoch = run.session.setup.scheduler, run.session.steps_per_epoch
    cycle, by_epoch = float(getattr(scheduler, "total_size", 0.0)), run.reading.unit == "epoch"
    short = bool(epoch) and not by_epoch and 0 < cycle < (epoch or 0)
    peak = float(run.used.max())
    return {
        "peak": peak,
        "share": facts["last"] / peak,
        "cycle": f"{cycle:.4g} calls" + (f", {cycle / epoch:.2g} epochs" if epoch and not by_epoch else ""),
        "severity": "fail" if short else "warn",
    }


def _grows(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    gamma = getattr(run.session.setup.scheduler, "gamma", None)
    hint = f" (gamma is {gamma})" if gamma is not None else ""
    why, advice = (
        "has no end to it",
        f"a factor below 1 makes the rate decay{hint}; a warm-up needs an end, as LinearLR has",
    )
    if facts.get("floor") is not None:
        why = f"is to fall to eta_min={facts['floor']:.3g}, which is above the optimizer's lr"
        advice = "give an eta_min below the lr: it is a rate, not a share of one"
    return {"why": why, "advice": advice, "severity": "fail" if facts["factor"] >= 10 or facts.get("floor") else "warn"}


def _always_zero(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    return {"group": ""}


def _overwritten(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "what": f"the rate stays at {facts['rate']:.3g} in {facts['steps']} calls of train_step",
        "effect": "is stepped, but its rates are overwritten",
    }


def _reset(run: Forecast, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "what": f"the rate was set to {facts['before']:.3g} after the scheduler was built",
        "effect": f"puts it back to {facts['after']:.3g} at its first step",
    }


_TO_DECIDE = frozenset({"mild", "dead", "restarts", "floor"})
"""What only the severity was decided by."""
_WORDS = {
    "other-optimizer": _other_optimizer,
    "raises": _raises,
    "impossible": _impossible,
    "pace": _pace,
    "spent": _spent,
    "climbs": _climbs,
    "not-reached": _not_reached,
    "cut-short": _cut_short,
    "overtaken": _overtaken,
    "grows": _grows,
    "fades": _fades,
    "always-zero": _always_zero,
    "overwritten": _overwritten,
    "reset": _reset,
}
