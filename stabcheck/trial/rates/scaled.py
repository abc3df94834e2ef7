"""Optimizer steps at scaled learning rates, whoever calls them.

The rate is changed around each `optimizer.step()` and put back right after it, so a scheduler, in the textbook loop or in the
user's own step, goes on counting from the rates that it knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stabcheck.trial.modes import held_by
from stabcheck.trial.session import Session


@dataclass(frozen=True)
class RatePlan:
    """Which rates a probe trains with before they are scaled: those that the loop sets, or, with `ramp`, a linear rise of the
    set-up's optimizer to its `peaks` (by group) within so many optimizer steps, held from there on."""

    peaks: tuple[float, ...] = ()
    ramp: int = 0

    def rate(self, group: int, step: int) -> float | None:
        """The rate of a parameter group of the set-up's optimizer at an optimizer step; None if the loop's own counts."""
        if not self.ramp or group >= len(self.peaks):
            return None
        return self.peaks[group] * min(1.0, (step + 1) / self.ramp)


class ScaledRates:
    """What was seen of the optimizers while their rates were scaled."""

    def __init__(self, session: Session, plan: RatePlan, factor: float) -> None:
        self.session, self.plan, self.factor = session, plan, factor
        self.steps = 0
        """Steps of the set-up's optimizer, or of all that hold weights of the model where it has none."""
        self.any = False
        """Whether there was a rate to scale."""
        self.share = 0.0
        """Share of the highest planned peak with which the last step was made; the factor is in it."""
        self._ids = {id(p) for p in session.model.parameters()}
        self._kept: list[tuple[dict[str, Any], Any]] = []

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Scale the rates of every optimizer step inside."""
        before = register_optimizer_step_pre_hook(self._before)
        after = register_optimizer_step_post_hook(self._after)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            self._put_back()

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not held_by(optimizer) & self._ids:
            return
        is_own = optimizer is self.session.setup.optimizer
        known = {id(group) for group, _ in self._kept}
        shares: list[float] = []
        for index, group in enumerate(optimizer.param_groups):
            rate = group.get("lr")
            # An optimizer inside another, as in sharpness-aware ones, shares its groups.
            if rate is None or id(group) in known:
                continue
            planned = self.plan.rate(index, self.steps) if is_own else None
            self._kept.append((group, rate))
            group["lr"] = (rate if planned is None else _like(rate, planned)) * self.factor
            shares.append(
                float(group["lr"]) / self.plan.peaks[index] if is_own and self._has_peak(index) else self.factor
            )
            self.any = True
        if shares and (is_own or self.session.setup.optimizer is None):
            self.steps += 1
            self.share = max(shares)

    def _has_peak(self, index: int) -> bool:
        return index < len(self.plan.peaks) and self.plan.peaks[index] > 0

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        own = {id(group) for group in optimizer.param_groups}
        if any(id(group) in own for group, _ in self._kept):
            self._put_back()

    def _put_back(self) -> None:
        for group, rate in self._kept:
            group["lr"] = rate
        self._kept.clear()


def _like(like: Any, value: float) -> Any:
    """`value` as a tensor where the rate is one."""
    return like.new_tensor(value) if hasattr(like, "new_tensor") else value
