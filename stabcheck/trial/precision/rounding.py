"""How much of the optimizer's movement is rounded away where the weights themselves are in half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import before_steps

STEPS = 12
"""The first steps of Adam are as large as its rate, which later ones are not."""
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Lost:
    """Shares of the movement, sum of |update|, that leave a weight exactly as it was."""

    at_peak: float
    at_end: float
    over_run: float
    """Of all movement planned, each rate weighted by its time."""
    dtype: str


def lost_updates(bench: Bench, factors: list[float], peak: float) -> Lost | str:
    """What rounding takes from the steps of a fresh set-up, at its planned rates. `factors` are the rates of the run over
    `peak`, at points evenly spread over it. A string says why it could not be measured.

    The update that is meant comes from the same optimizer on float32 copies of weights and gradients.

    Raises:
        UserCodeError: the set-up, the loader or the step raised.
        Skip: the set-up does not say how it trains.
    """
    session = bench.session()
    shadows: dict[int, Any] = {}
    meant: list[tuple[torch.Tensor, torch.Tensor]] = []
    problem: list[str] = []

    def before_step(optimizer: Any) -> None:
        if problem:
            return
        if not type(optimizer).__module__.startswith("torch.optim"):
            problem.append(f"{type(optimizer).__name__} is no optimizer of torch, and may round in a way of its own")
            return
        shadow = shadows.setdefault(id(optimizer), _shadow(optimizer))
        meant.clear()
        rate = max(float(group["lr"]) for group in optimizer.param_groups)
        pairs = _load(shadow, optimizer)
        before = [copy.detach().clone() for _, copy in pairs]
        shadow.step()
        if rate > 0:
            for (p, copy), start in zip(pairs, before, strict=True):
                if p.dtype in HALVES:
                    meant.append((p.detach().clone(), (copy.detach() - start) * (peak / rate)))

    with before_steps((p for p in session.model.parameters() if p.dtype in HALVES), before_step):
        batches = session.train_batches()
        for _ in range(STEPS * session.setup.accumulate_steps):
            session.step(next(batches)[1])
            if problem:
                return problem[0]
    if not meant or not all(bool(torch.isfinite(update).all()) for _, update in meant):
        return "no finite update was made in the first steps"
    shares = [_share(meant, factor) for factor in factors]
    whole = sum(factors)
    return Lost(
        at_peak=_share(meant, 1.0),
        at_end=shares[-1],
        over_run=sum(f * s for f, s in zip(factors, shares, strict=True)) / whole if whole else 1.0,
        dtype=str(meant[0][0].dtype).removeprefix("torch."),
    )


def _share(meant: list[tuple[torch.Tensor, torch.Tensor]], factor: float) -> float:
    lost = total = 0.0
    for weight, update in meant:
        scaled = update * factor
        size = scaled.abs()
        stays = (weight.float() + scaled).to(weight.dtype) == weight
        lost, total = lost + float(size[stays].sum()), total + float(size.sum())
    return lost / total if total > 0 else 0.0


def _shadow(optimizer: Any) -> Any:
    groups = [
        {**group, "params": [torch.nn.Parameter(p.detach().float().clone()) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return type(optimizer)(groups)


def _load(shadow: Any, optimizer: Any) -> list[tuple[Any, Any]]:
    """Puts the present weights, gradients and options into the shadow; the pairs (parameter, its copy) with a gradient."""
    pairs = []
    for theirs, group in zip(shadow.param_groups, optimizer.param_groups, strict=True):
        theirs.update({key: value for key, value in group.items() if key != "params"})
        for copy, p in zip(theirs["params"], group["params"], strict=True):
            copy.grad = None
            if p.grad is not None:
                copy.data.copy_(p.detach().float())
                copy.grad = p.grad.detach().float().to_dense() if p.grad.is_sparse else p.grad.detach().float()
                pairs.append((p, copy))
    return pairs
