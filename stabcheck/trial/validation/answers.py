"""Whether the numbers of a validation tell of the model's answers: found out by giving it other answers.

The user's validate() runs as it is; only what the model returns is replaced, call by call.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.validation.forward_watch import ForwardWatch
from stabcheck.trial.validation.loader_watch import LoaderWatch
from stabcheck.trial.validation.watched import Alter, Run, run
from stabcheck.userland import UserCodeError

CHANCES = 4
"""Sets of random answers that must all agree: two sets may get the same number of samples right by chance."""

FEWEST = 3
"""Forwards from which the last one is not most of them."""

APART = 0.5
"""Relative difference between the numbers for right answers and for exchanged ones from which they are told apart at once.
(Accuracy of ten classes: 1 and 0.1; losses and errors: 0 and more.) What differs by less is compared with more exchanges."""

ENOUGH = 30
"""Samples that must get a wrong answer: an accuracy that falls by so many samples of a batch falls by five times their
standard deviation, their square root."""

CONFIDENT = 6.0
"""Logit of the right class, the negative of it for the others: its cross-entropy is below 0.0001 for 10 classes."""

HALF = 0.5
"""Share of the loss of exchanged answers that right ones may have at most, for the targets to be what is learnt."""

_CLOSE, ROUNDING = 1e-3, 1e-5
"""Relative differences of sums that are the same but for rounding: those of differences, and plain ones."""


@dataclass(frozen=True)
class Answers:
    """What giving other answers showed. Keys are places in what validate() returns."""

    last_only: tuple[str, ...] = ()
    """Numbers that depend on the last forward and on no other."""
    carried: dict[str, Literal["sum", "mean"]] | None = None
    """Numbers that go on from the validations before, and how."""
    blind: dict[str, tuple[float, float]] | None = None
    """(for right answers, for the same ones exchanged between samples), which are no better; where the loss knows better."""
    moving: tuple[str, ...] = ()
    """Numbers that other answers change."""


def answers(session: Session, seconds: float) -> Answers | None:
    """None if it cannot be told: random outputs, no numbers, or a validation that takes no other outputs."""
    try:
        return _Asking(session, seconds).all()
    except (UserCodeError, Skip):
        return None


class _Asking:
    def __init__(self, session: Session, seconds: float) -> None:
        self._session, self._seconds = session, seconds

    def all(self) -> Answers | None:
        one, two = self._run(), self._run()
        if not one.numbers or not one.forwards or one.stopped or not one.same_outputs(two, 0.0):
            return None
        last_only = self._last_only(one, two)
        before, altered = self._run(), self._run(_noise(CHANCES))
        carried = self._carried(one, two, before, altered, self._run())
        steady = [key for key, value in one.numbers.items() if two.numbers.get(key) == value and key not in carried]
        blind = {} if last_only or carried else self._blind(steady)
        moving = tuple(key for key in one.numbers if _reacts(key, one, two, before, altered))
        return Answers(last_only, carried, blind, moving)

    def _run(self, alter: Alter | None = None) -> Run:
        with kept_rng(0):
            return run(self._session, seconds=self._seconds, alter=alter)

    # --- the last batch only

    def _last_only(self, one: Run, two: Run) -> tuple[str, ...]:
        # One model, asked once for each sample: what else is run at the end has numbers of its own.
        models = {id(v.root) for v in one.visits if next(v.root.parameters(), None) is not None}
        single = len(models) == 1 and one.samples == sum(one.yielded.values())
        if not single or one.forwards < FEWEST:
            return ()
        same = {key for key, value in one.numbers.items() if two.numbers.get(key) == value}
        for seed in range(CHANCES):
            seen = self._run(_noise(seed, until=one.forwards - 1))
            same = {key for key in same if seen.numbers.get(key) == one.numbers[key]}
            if not same:
                return ()
        seen = self._run(_noise(0))
        return tuple(sorted(key for key in same if seen.numbers.get(key) != one.numbers[key]))

    # --- what earlier validations leave

    def _carried(self, one: Run, two: Run, before: Run, altered: Run, three: Run) -> dict[str, Literal["sum", "mean"]]:
        carried: dict[str, Literal["sum", "mean"]] = {}
        if not three.same_outputs(one, 0.0):
            return carried
        runs = (one, two, before, altered, three)
        known = [key for key in one.numbers if _finite(*(r.numbers.get(key) for r in runs))]
        moved = [key for key in known if not one.numbers[key] == two.numbers[key] == three.numbers[key]]
        for key in moved:
            a, b, c, d, e = (r.numbers[key] for r in runs)
            # The same model on the same data adds the same; other answers add something else.
            if b != a and math.isclose(b - a, e - d, rel_tol=_CLOSE) and not math.isclose(d - c, b - a, rel_tol=_CLOSE):
                carried[key] = "sum"
        rest = [key for key in moved if key not in carried]
        if rest:
            more = [three, *(self._run() for _ in range(3))]
            carried |= {key: "mean" for key in rest if _is_cumulative([r.numbers.get(key, math.nan) for r in more])}
        return carried

    # --- right and exchanged answers

    def _blind(self, keys: Iterable[str]) -> dict[str, tuple[float, float]]:
        right = _Oracle(None)
        best = self._run(right)
        found: dict[str, list[float]] = {key: [] for key in keys}
        for seed in range(CHANCES):
            wrong = _Oracle(seed)
            worse = self._run(wrong)
            if not (right.everywhere(best) and wrong.everywhere(worse) and wrong.exchanged >= ENOUGH):
                return {}
            for key, values in list(found.items()):
                a, b = best.numbers.get(key, math.nan), worse.numbers.get(key, math.nan)
                values.append(b)
                if not _finite(a, b) or abs(a - b) > APART * max(abs(a), abs(b)):
                    del found[key]
            if not found:
                return {}
        within = {
            key: (best.numbers[key], values[0]) for key, values in found.items() if _one_of(best.numbers[key], values)
        }
        # Numbers that no answer moves, such as a count of samples, tell nothing.
        other, plain = self._run(_noise(0)).numbers, self._run().numbers
        within = {key: pair for key, pair in within.items() if not other.get(key) == plain.get(key) == pair[0]}
        return within if within and self._loss_knows() else {}

    def _loss_knows(self) -> bool:
        """Whether the set-up's loss is much lower for right answers than for exchanged ones."""
        batch = self._session.first_batch(
            "val_loader" if self._session.setup.val_loader is not None else "train_loader"
        )
        losses = []
        for seed in (None, 0):
            oracle = _Oracle(seed)
            watch = ForwardWatch(self._session.model, substitute=lambda out, o=oracle: o.answer(0, batch, out))  # type: ignore[misc]
            with kept_rng(0), watch:
                losses.append(self._session.validation_loss(batch))
        return losses[0] < HALF * losses[1]


def _reacts(key: str, one: Run, two: Run, before: Run, altered: Run) -> bool:
    """Whether other answers change the number, or by how much it grows from one validation to the next."""
    a, b, c, d = (seen.numbers.get(key, math.nan) for seen in (one, two, before, altered))
    return not math.isclose(d - c, b - a, rel_tol=ROUNDING, abs_tol=ROUNDING * abs(a))


def _is_cumulative(values: list[float]) -> bool:
    """Whether four numbers are the averages over n, n + 1, n + 2 and n + 3 validations of which the last three gave the same:
    the steps between them are as 1/n(n+1) to 1/(n+1)(n+2) to 1/(n+2)(n+3), which no other average's are."""
    if not _finite(*values):
        return False
    x, y, z = (after - before for before, after in pairwise(values))
    if not (x and y and z) or x / y <= 1:
        return False
    n = 2 / (x / y - 1)
    whole = n >= 1 and abs(n - round(n)) < 0.02 * n  # 30 validations: a ratio of 1.067 known to 4 figures
    return whole and math.isclose(y / z, (round(n) + 3) / (round(n) + 1), rel_tol=_CLOSE)


def _finite(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def _one_of(value: float, values: list[float]) -> bool:
    """Whether it may be one of them: within three standard deviations of their mean, or their rounding."""
    spread = statistics.stdev(values)
    return abs(value - statistics.fmean(values)) <= 3 * spread + ROUNDING * abs(value)


def _noise(seed: int, until: int | None = None) -> Alter:
    """Random answers of the size of the model's own, for the calls before `until`."""

    def alter(index: int, loaded: LoaderWatch, output: Any) -> Any:
        if until is not None and index >= until:
            return output
        source = torch.Generator().manual_seed(1000 * seed + index)

        def drawn(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_floating_point() or tensor.layout is not torch.strided:
                return tensor
            values = tensor.detach().float()
            size = float(values.std()) if values.numel() > 1 else 0.0
            size = size if math.isfinite(size) and size > 0 else 1.0
            noise = torch.randn(values.shape, generator=source).to(values.device)
            return (values.mean() + size * noise).to(tensor.dtype)

        return batches.map_tensors(output, drawn)

    return alter


class _Oracle:
    """The right answers to batches of (inputs, targets), where the outputs' shapes say how they are given; with a seed,
    given to the wrong samples."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self.exchanged = 0
        """Samples that got another answer than the right one."""
        self._replaced = 0

    def everywhere(self, seen: Run) -> bool:
        """Whether every output of that validation was replaced."""
        return bool(seen.forwards) and self._replaced == seen.forwards

    def __call__(self, index: int, loaded: LoaderWatch, output: Any) -> Any:
        # Where batches are loaded ahead, or all first, it is not known which one the model was given.
        return self.answer(index, loaded.latest, output) if loaded.given == index + 1 else output

    def answer(self, index: int, batch: Any, output: Any) -> Any:
        """What replaces the output for that batch, or the output itself."""
        if not (isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(output, torch.Tensor)):
            return output
        right = (
            right_answers(output.detach(), batch[1].to(output.device)) if isinstance(batch[1], torch.Tensor) else None
        )
        if right is None:
            return output
        self._replaced += 1
        if self._seed is None:
            return right
        source = torch.Generator().manual_seed(1000 * self._seed + index)
        wrong = right[torch.randperm(len(right), generator=source).to(right.device)]
        self.exchanged += int((wrong != right).reshape(len(right), -1).any(1).sum())
        return wrong


def right_answers(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    """What a perfect model returns in the form of `output`: logits for whole targets, else the targets; None if the shapes
    do not tell."""
    if not output.is_floating_point() or not output.dim() or not targets.dim() or len(output) != len(targets):
        return None
    whole = not targets.is_floating_point()
    classes = targets.clamp_min(0) if whole and targets.dtype is not torch.bool else targets
    for axis in (-1, 1):
        is_classes = output.dim() == targets.dim() + 1 and output.shape[axis] > max(1, int(classes.max()))
        if whole and is_classes and output.movedim(axis, -1).shape[:-1] == targets.shape:
            hot = torch.nn.functional.one_hot(classes.long(), output.shape[axis]).movedim(-1, axis)
            return (CONFIDENT * (2.0 * hot - 1.0)).to(output.dtype)
    if output.numel() != targets.numel():
        return None
    values = targets.reshape(output.shape).to(output.dtype)
    binary = bool(((values == 0) | (values == 1)).all()) and bool(((output < 0) | (output > 1)).any())
    return CONFIDENT * (2 * values - 1) if binary else values
