"""From what the trial saw, scalars on the device by name, to the records of a Recording."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from stabcheck import stats
from stabcheck.recording import OptimizerFacts, Parameter, Signal, Step
from stabcheck.trial import norms
from stabcheck.trial.optimizers.denominators import below_eps
from stabcheck.trial.probes import SignalReading

Column = list[float | None]
_DECOUPLED = {"AdamW", "Adafactor", "Lion", "Muon", "AdamWScale", "StableAdamW", "Adan", "Sophia"}
"""Optimizers whose weight decay acts on the weights alone; newer versions of torch also say so in their groups."""


def table(rows: list[dict[str, torch.Tensor]]) -> dict[str, Column]:
    """Rows of named scalars as one column of numbers for each name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    flat = norms.numbers([row.get(name) for name in names for row in rows])
    return {name: flat[i * len(rows) : (i + 1) * len(rows)] for i, name in enumerate(names)}


def step_records(facts: list[dict[str, Any]], raw: dict[str, Column], seen: dict[str, Column]) -> tuple[Step, ...]:
    """One Step for each dict of facts, with the norms of all parameters together."""
    return tuple(
        Step(
            **fact,
            grad_norm=stats.joint_norm([column[i] for column in raw.values()]),
            clipped_norm=stats.joint_norm([column[i] for column in seen.values()]),
        )
        for i, fact in enumerate(facts)
    )


def never_reached(name: str, raw: dict[str, Column], seen: dict[str, Column]) -> bool:
    """Whether no gradient ever came to the parameter."""
    return all(v is None for v in [*raw.get(name, []), *seen.get(name, [])])


def always_zero(name: str, raw: dict[str, Column]) -> bool:
    """Whether backward brought the parameter a gradient in several steps, and it was exactly zero in each."""
    there = [v for v in raw.get(name, []) if v is not None]
    return len(there) > 1 and not any(there)


def parameter_records(
    model: nn.Module,
    raw: dict[str, Column],
    seen: dict[str, Column],
    weights: dict[str, Column],
    updates: dict[str, Column],
    *,
    counts: tuple[int, int],
    held: set[int],
    at_start: dict[str, tuple[bool, bool, bool]],
    matters: dict[str, bool | None],
) -> tuple[Parameter, ...]:
    """One Parameter for each tensor of the model.

    `counts` are the numbers of steps and of samples; `held` the ids of the tensors that optimizers hold; `at_start` has for
    each name (trainable, all zero, all equal).
    """
    steps, samples = counts
    found = []
    for name, p in model.named_parameters():
        trainable, zero, constant = at_start.get(name, (p.requires_grad, False, False))
        found.append(
            Parameter(
                name=name, shape=tuple(p.shape), module=name.rpartition(".")[0], trainable=trainable,
                optimized=id(p) in held, zero_at_start=zero, constant_at_start=constant,
                matters=matters.get(name), grad_norm=tuple(raw.get(name, [None] * steps)),
                clipped_norm=tuple(seen.get(name, [None] * steps)), weight_norm=tuple(weights.get(name, [None] * samples)),
                update_norm=tuple(updates.get(name, [None] * samples)),
            )
        )  # fmt: skip
    return tuple(found)


def signal_records(rows: list[dict[str, SignalReading]]) -> tuple[Signal, ...]:
    """One Signal for each module seen in any row, in the order of the row that saw most."""
    longest = max(rows, key=len, default={})
    kinds = {name: reading.kind for row in [longest, *rows] for name, reading in row.items()}
    found = []
    for name, kind in kinds.items():
        column = [row.get(name) for row in rows]
        squares = [sum(r.grad_squares[1:], r.grad_squares[0]).sqrt() if r and r.grad_squares else None for r in column]
        rms = norms.numbers([r.out_rms if r else None for r in column])
        share = norms.numbers([r.variance_share if r else None for r in column])
        found.append(Signal(name, kind, tuple(rms), tuple(share), tuple(norms.numbers(squares))))
    return tuple(found)


def optimizer_facts(optimizer: torch.optim.Optimizer) -> OptimizerFacts:
    """The optimizer by its class and the scalar options of its groups."""
    groups = []
    for group in optimizer.param_groups:
        options = {k: v for k, v in group.items() if isinstance(v, (int, float, bool, str))}
        options |= {f"beta{i}": float(beta) for i, beta in enumerate(group.get("betas", ()), start=1)}
        groups.append({**options, "parameters": len(group["params"])})
    kind = type(optimizer)
    roots = below_eps(optimizer)
    return OptimizerFacts(
        kind.__name__,
        tuple(groups),
        is_torch=kind.__module__.startswith("torch.optim"),
        decoupled=any(group.get("decoupled_weight_decay") for group in groups) or kind.__name__ in _DECOUPLED,
        below_eps=roots[0] if roots else None,
        typical_gradient=roots[1] if roots else None,
    )


def first_non_finite(
    steps: tuple[Step, ...], parameters: tuple[Parameter, ...], signals: tuple[Signal, ...], sampled: list[int]
) -> tuple[str, str, int] | None:
    """Where a NaN or infinity came from. Within a step the order is: activations in order of execution, the loss,
    gradients from the output backwards; a gradient counts only if the optimizer used it."""
    order = {signal.module: i for i, signal in enumerate(signals)}
    backwards = sorted(range(len(parameters)), key=lambda i: -order.get(parameters[i].module, -1))
    for i, step in enumerate(steps):
        if i in sampled:
            row = sampled.index(i)
            for signal in signals:
                value = signal.out_rms[row]
                if value is not None and not math.isfinite(value):
                    return "activation", signal.module, i
        if step.loss is not None and not math.isfinite(step.loss):
            return "loss", "", i
        if not step.stepped:
            continue
        for j in backwards:
            values = parameters[j].clipped_norm[i], parameters[j].grad_norm[i]
            if any(v is not None and not math.isfinite(v) for v in values):
                return "gradient", parameters[j].name, i
    return None
