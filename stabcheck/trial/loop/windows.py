"""Accumulation in the user's own step: which micro-batches an update is made of, and how they are weighted."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import attached
from stabcheck.trial.loop.events import Call, Use
from stabcheck.trial.loop.shares import dot, shares
from stabcheck.trial.loop.trace import LoopTrace
from stabcheck.trial.losses import IGNORE_INDEX
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.rng import kept_rng, seed_all
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

MOST_CALLS = 64
"""Calls without a step after which a loop that declares no accumulation is not waited for any longer."""
SECONDS = 15.0
"""Time after which no call is waited for, and that the comparison of one window may take."""
COMPARED = 2.5
"""Calls' time that the comparison takes for each micro-batch: its gradient, half its loss, and the call itself."""
HALVED = 2
"""Micro-batches that are halved to learn whether the loss is a sum."""
SUM_LIKE = 0.75
"""Loss of half a batch over that of the whole: 1/2 for a sum over samples, 1 for a mean, each with the noise of a half."""
UNEVEN = 1.5
"""Times that one micro-batch counts more than another before they are weighted: equal ones differ by rounding."""
SAME = 0.05
"""Difference of the shares in two windows, relative to the largest, that is none."""


@dataclass(frozen=True)
class Scale:
    """The gradient that an optimizer used against the gradients of the same micro-batches, averaged."""

    factor: float
    """Its length along that mean, in units of the mean."""
    cosine: float
    sums: bool | None
    """The loss is a sum over samples and not a mean; None if a batch cannot be halved."""
    tokens: tuple[int, ...]
    """Labels that count in each micro-batch; empty if that is the same for all."""
    token_error: float | None
    """How far the mean of means is from the mean over all these labels, relative to it."""
    shares: tuple[float, ...] = ()
    """How often the gradient of each micro-batch is in it, by position, where no mean, sum or size of them explains that."""


@dataclass(frozen=True)
class Windows:
    """What was seen from step to step."""

    session: Session
    declared: int
    calls: tuple[Call, ...]
    uses: tuple[Use, ...]
    """Of the optimizer that steps most seldom."""
    gap: int | None
    """Calls from one step to the next; None if it was not the same each time."""
    optimizer: str
    every_call: bool
    """Some optimizer of the model steps in every call."""
    tail: int
    """Micro-batches at the end of the epoch that fill no window."""
    scale: Scale | None
    why_not: str
    """Why the scale is not known."""


def watch(bench: Bench) -> Windows:
    """Watch some windows of a fresh set-up's own step.

    Raises:
        Skip: no optimizer stepped.
        UserCodeError: the step raised.
    """
    return _Watch(bench).run()


class _Watch:
    def __init__(self, bench: Bench) -> None:
        self.bench, self.session = bench, bench.session()
        self.trace = LoopTrace(self.session.model)
        self.batches = (batch for _, batch in self.session.train_batches())
        self.declared = self.session.setup.accumulate_steps
        self.deadline = time.monotonic() + SECONDS
        self.summing = False
        self.sums: dict[str, torch.Tensor] = {}

    def run(self) -> Windows:
        trace, limit = self.trace, max(MOST_CALLS, 2 * self.declared)
        scale, why = None, ""
        started = time.monotonic()
        with trace.watching(), self._summed():
            self._until_use(limit)
            if trace.calls[-1].index != self.declared - 1 or self.declared == 1:
                self._until_use(limit)
            gap = self._gap()
            parts = max((len(call.backwards) for call in trace.calls), default=0)
            if gap is None or (gap == 1 and parts < 2):
                why = "no two windows of micro-batches were alike"
            elif gap * COMPARED * (time.monotonic() - started) / len(trace.calls) > SECONDS:
                why = f"the gradients of {gap} micro-batches take longer than {SECONDS:.0f} s"
            else:
                try:
                    scale = self._scale(gap)
                    if scale.shares:
                        scale = dataclasses.replace(scale, shares=_in_common(scale.shares, self._scale(gap).shares))
                except (UserCodeError, Skip, RuntimeError) as error:
                    why = f"the set-up's loss cannot be had outside train_step ({' '.join(str(error).split())[:120]})"
        uses = self._seldom()
        length = self.session.steps_per_epoch
        return Windows(
            session=self.session,
            declared=self.declared,
            calls=tuple(trace.calls),
            uses=tuple(uses),
            gap=gap,
            optimizer=type(trace.optimizers[uses[0].optimizer]).__name__,
            every_call=any(
                all(any(u.optimizer == i for u in call.uses) for call in trace.calls)
                for i in range(len(trace.optimizers))
            ),
            tail=length % self.declared if length else 0,
            scale=scale,
            why_not=why,
        )

    def _call(self, batch: Any) -> Call:
        self.trace.begin(batches.size(batch))
        self.trace.end(self.session.step(batch))
        return self.trace.calls[-1]

    def _until_use(self, limit: int) -> None:
        for _ in range(limit):
            if self._call(next(self.batches)).uses:
                return
            if self.bench.remaining() < 0 or (time.monotonic() > self.deadline and len(self.trace.calls) >= 4):
                break
        if not any(call.uses for call in self.trace.calls):
            raise Skip(f"no optimizer of the model was seen to step in {len(self.trace.calls)} calls of train_step")

    def _seldom(self) -> list[Use]:
        by_optimizer: dict[int, list[Use]] = {}
        for call in self.trace.calls:
            for use in call.uses:
                by_optimizer.setdefault(use.optimizer, []).append(use)
        return min(by_optimizer.values(), key=len)

    def _gap(self) -> int | None:
        places = sorted({use.call for use in self._seldom()})
        gaps = {b - a for a, b in itertools.pairwise(places)}
        if not gaps:
            return places[0] + 1 if places[0] + 1 == self.declared else None
        return gaps.pop() if len(gaps) == 1 else None

    # --- the scale

    @contextlib.contextmanager
    def _summed(self) -> Iterator[None]:
        """Add up what each backward pass brings, while `summing`."""

        def add(name: str) -> Any:
            def hook(gradient: torch.Tensor) -> None:
                if self.summing:
                    value = (gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()).float()
                    self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

            return hook

        named = [(n, p) for n, p in self.session.model.named_parameters() if p.requires_grad]
        with attached(p.register_hook(add(n)) for n, p in named):
            yield

    def _scale(self, gap: int) -> Scale:
        """One more window, and the gradients of its micro-batches at the same weights with the same randomness."""
        window = [batches.clone(next(self.batches)) for _ in range(gap)]
        means, counts, halves = [], [], []
        for index, batch in enumerate(window):
            gradients, half = self._reference(batch, index)
            means.append(gradients)
            counts.append(_labels_that_count(self.session, batch))
            halves.append(half)
        self.sums, self.summing = {}, True
        with kept_rng():
            for index, batch in enumerate(window):
                seed_all(self.bench.seed + index)
                call = self._call(batch)
        self.summing = False
        use = next((u for u in call.uses if not u.in_closure), None)
        if use is None or not use.raw:
            raise Skip("the optimizer did not step at the end of the window")
        clipped = next((c.norm for c in call.clips if c.fresh and not c.by_value), None)
        by_hand = (use.norm if clipped is None else clipped) / use.raw
        whole = _mean(means, [1.0] * gap)
        along, own, other = (dot(a, b) for a, b in ((self.sums, whole), (self.sums, self.sums), (whole, whole)))
        known = [c for c in counts if c is not None]
        uneven = len(known) == gap > 1 and min(known) > 0 and len(set(known)) > 1
        weighted = _mean(means, [float(c) for c in known]) if uneven else whole
        return Scale(
            factor=along / other * by_hand if other else math.nan,
            cosine=along / math.sqrt(own * other) if own and other else 0.0,
            sums=_is_sum(halves),
            tokens=tuple(known) if uneven else (),
            token_error=_distance(whole, weighted) if uneven else None,
            shares=_unexplained(shares(means, self.sums), by_hand, [batches.size(b) for b in window], counts),
        )

    def _reference(self, batch: Any, index: int) -> tuple[dict[str, torch.Tensor], float | None]:
        """(gradients of the set-up's loss on the batch, loss of its first half over its loss)."""
        session = self.session
        named = [(n, p) for n, p in session.model.named_parameters() if p.requires_grad]
        with undisturbed(session.model), torch.enable_grad(), kept_rng(self.bench.seed + index):
            loss = session.loss(batch)
            found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
            pairs = [(n, g) for (n, _), g in zip(named, found, strict=True) if g is not None]
            gradients = {n: (g.to_dense() if g.is_sparse else g).float() for n, g in pairs}
            size = batches.size(batch)
            half = batches.cut(batch, size // 2)
            if index >= HALVED or size < 4 or batches.size(half) == size:
                return gradients, None
            try:
                seed_all(self.bench.seed + index)
                part = float(session.loss(half).detach())
            except UserCodeError:
                return gradients, None
        value = float(loss.detach())
        return gradients, part / value if value else None


def _is_sum(halves: list[float | None]) -> bool | None:
    known = [h for h in halves if h is not None and math.isfinite(h)]
    return sum(known) / len(known) < SUM_LIKE if known else None


def _labels_that_count(session: Session, batch: Any) -> int | None:
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if labels is None and isinstance(batch, (list, tuple)) and len(batch) == 2:
        labels = batch[1]
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point():
        return None
    return int((labels != getattr(session.setup.loss_fn, "ignore_index", IGNORE_INDEX)).sum())


def _mean(parts: list[dict[str, torch.Tensor]], weights: list[float]) -> dict[str, torch.Tensor]:
    total = math.fsum(weights)
    mean: dict[str, torch.Tensor] = {}
    for part, weight in zip(parts, weights, strict=True):
        for name, value in part.items():
            scaled = value * (weight / total)
            mean[name] = mean[name] + scaled if name in mean else scaled
    return mean


def _unexplained(
    found: tuple[float, ...] | None, factor: float, sizes: list[int], labels: list[int | None]
) -> tuple[float, ...]:
    """The shares of the micro-batches if they are neither equal nor as their samples or labels are; else none."""
    explained = [[1] * len(sizes), sizes, [count or 0 for count in labels]]
    if found is None or any(_even(found, weights) for weights in explained if all(weights)):
        return ()
    return tuple(share * factor for share in found)


def _even(found: tuple[float, ...], weights: Sequence[int]) -> bool:
    each = [share / weight for share, weight in zip(found, weights, strict=True)]
    return min(each) > 0 and max(each) < UNEVEN * min(each)


def _in_common(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    """The shares by position if two windows have the same: it is the position, not the data, that weighs."""
    if len(one) != len(other) or any(abs(a - b) > SAME * max(map(abs, one)) for a, b in zip(one, other, strict=True)):
        return ()
    return one


def _distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    apart = math.fsum(float((a[name] - b[name]).double().square().sum()) for name in a)
    return math.sqrt(apart / max(dot(b, b), 1e-300))
