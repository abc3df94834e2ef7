"""What two reports say of the set-ups themselves: what the user chose, rather than what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stabcheck.report import Report
from stabcheck.stats import number

OPTIONS = ("weight_decay", "beta2", "eps", "nesterov", "amsgrad", "parameters")
"""Of a parameter group. Momentum and the first beta are left out: some schedules move them."""


def changed(old: Report, new: Report) -> Iterator[tuple[str, str, str]]:
    """(fact, old, new) of the facts that both reports have and that differ, the most telling first."""
    before, after = _facts(old), _facts(new)
    for fact in before:
        if fact in after and before[fact] != after[fact]:
            yield fact, before[fact], after[fact]


def _facts(report: Report) -> dict[str, str]:
    measured = {check.id: check.measurements for check in report.checks}

    def of(id: str, *path: str) -> Any:
        value: Any = measured.get(id)
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    rate = number(of("learning-rate", "planned_peak_rate"))
    found = {
        "learning rate (peak)": number(of("lr-schedule", "peak")) if rate is None else rate,
        "last learning rate": of("lr-schedule", "final"),
        "optimizer": _optimizers(of("optimizer-config", "optimizers")) or of("training-loop", "optimizers"),
        "schedule": of("lr-schedule", "scheduler"),
        "planned steps": number(of("lr-schedule", "planned_steps")),
        "steps per epoch": number(of("lr-schedule", "steps_per_epoch")),
        "clip threshold": number(of("gradient-norms", "clip_threshold")),
        "training samples": number(of("overfitting", "training_samples")),
        "validation samples": number(of("overfitting", "validation_samples")),
        "trained parameters": number(of("overfitting", "trained_parameters")),
        "type of the weights": of("precision", "weights"),
        "autocast": of("precision", "autocast"),
    }
    return {fact: _said(value) for fact, value in found.items() if value not in (None, "", [])}


def _optimizers(rows: object) -> list[str]:
    """Kind and options of each, without the rate, which a schedule moves."""
    found = []
    for row in rows if isinstance(rows, list) else []:
        groups = row.get("groups") if isinstance(row, Mapping) else None
        first = next((group for group in groups or () if isinstance(group, Mapping)), {})
        words = [f"{name.replace('_', ' ')} {_said(first[name])}" for name in OPTIONS if first.get(name) is not None]
        found.append(f"{row.get('kind')} ({', '.join(words)})" if words else str(row.get("kind")))
    return found


def _said(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
