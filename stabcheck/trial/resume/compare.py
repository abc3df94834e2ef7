"""Comparing two states of one set-up, leaf by leaf.

A state is the `leaves` of `walk.look`: values under paths that two processes share.
Equality is of bits (NaN equals NaN): a checkpoint that restores everything restores it exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.trial.resume.state import Kind, Leaf, State

COARSEST_ROUNDING = 2.0**-8
"""Relative rounding error of bfloat16, the coarsest float format that weights are saved in."""


@dataclass(frozen=True)
class Difference:
    """One leaf that two states do not share."""

    path: str
    part: str
    kind: Kind
    expected: Any
    """The number that should be there; for a tensor its norm."""
    actual: Any
    """The same as found; None where there is none."""
    untouched: bool
    """The value found is what a fresh set-up holds: nothing was loaded into it."""
    rounded: bool
    """Every element is the expected one but for the rounding of a shorter float format."""
    share: float | None = None
    """L2 distance of two tensors of the same shape, over the norm of the expected one."""


def same(first: Leaf | None, second: Leaf | None) -> bool:
    """Whether two leaves hold the same value. A missing leaf equals one that is None, and a number its 0-d tensor."""
    one, two = _plain(first), _plain(second)
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return _same_tensors(one, two) and (first and first.shape) == (second and second.shape)
    if isinstance(one, torch.Tensor) or isinstance(two, torch.Tensor):
        return False
    return bool(one == two) or (_is_nan(one) and _is_nan(two))


def differences(expected: State, actual: State, fresh: State) -> list[Difference]:
    """Every leaf of `expected` that `actual` does not have with the same value, in walking order.

    Args:
        expected: the state that should be there.
        actual: the state that is there.
        fresh: the state of the same set-up before anything was loaded.
    """
    return [
        Difference(
            path=path,
            part=leaf.part,
            kind=leaf.kind,
            expected=_shown(leaf),
            actual=_shown(actual.get(path)),
            untouched=same(actual.get(path), fresh.get(path)),
            rounded=_is_rounded(leaf, actual.get(path)),
            share=_share(path, expected, actual),
        )
        for path, leaf in expected.items()
        if not same(leaf, actual.get(path))
    ]


def distance(first: State, second: State) -> float:
    """L2 distance between the tensors that both states hold with the same shape; NaN if one holds NaN."""
    total = 0.0
    for path, leaf in first.items():
        other = second.get(path)
        if isinstance(leaf.value, torch.Tensor) and other is not None and leaf.shape == other.shape:
            total += float((leaf.value.double() - other.value.double()).square().sum())
    return math.sqrt(total)


def same_numbers(first: Sequence[float | None], second: Sequence[float | None]) -> bool:
    """Whether two sequences of losses are equal, NaN to NaN and None to None."""
    return len(first) == len(second) and all(
        one == two or (_is_nan(one) and _is_nan(two)) for one, two in zip(first, second, strict=True)
    )


def is_shaped_like_weights(paths: Collection[str], state: State) -> bool:
    """Whether the tensors at `paths` are a copy of the model in shape: at least two of them, with the shapes of at least
    half of the weights; or one as long as all weights together."""
    shapes = [leaf.shape for leaf in state.values() if leaf.kind == "weight" and leaf.shape is not None]
    mine = [shape for path in paths if (shape := state[path].shape) is not None]
    if len(mine) == 1 and len(shapes) > 1:
        return math.prod(mine[0]) == sum(map(math.prod, shapes))
    shared = (Counter(shapes) & Counter(mine)).total()
    return shared >= 2 and 2 * shared >= len(shapes)


def heals(paths: Collection[str], expected: State, expected_end: State, actual: State, actual_end: State) -> bool:
    """Whether values that were lost come right by themselves in the steps that follow, as a copy of the last weights
    or gradients does: they are equal at the end, or, where the runs have parted, at less than half the distance.

    A moving average with decay 0.9 keeps 0.9⁴ = 0.66 of the distance over 4 steps.
    """
    if not actual_end:
        return False
    if all(same(expected_end.get(path), actual_end.get(path)) for path in paths):
        return True
    if all(same(leaf, actual_end.get(path)) for path, leaf in expected_end.items() if leaf.kind == "weight"):
        return False
    before = distance({p: expected[p] for p in paths}, actual)
    after = distance({p: expected_end[p] for p in paths if p in expected_end}, actual_end)
    return after < before / 2


def _plain(leaf: Leaf | None) -> Any:
    if leaf is None:
        return None
    value = leaf.value
    return value.item() if isinstance(value, torch.Tensor) and leaf.shape == () else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _same_tensors(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.dtype != two.dtype or one.shape != two.shape:
        return False
    return bool(((one == two) | ((one != one) & (two != two))).all())


def _shown(leaf: Leaf | None) -> Any:
    value = _plain(leaf)
    return float(value.double().norm()) if isinstance(value, torch.Tensor) else value


def _share(path: str, expected: State, actual: State) -> float | None:
    other = actual.get(path)
    norm: Any = _shown(expected[path])
    if expected[path].shape is None or other is None or other.shape != expected[path].shape or not norm:
        return None
    return distance({path: expected[path]}, {path: other}) / float(norm)


def _is_rounded(leaf: Leaf, other: Leaf | None) -> bool:
    one, two = leaf.value, other.value if other else None
    if not (isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) and one.shape == two.shape):
        return False
    if not (one.is_floating_point() and two.is_floating_point()) or not one.numel():
        return False
    one, two = one.double(), two.double()
    # Half a unit in the last place, and float16's smallest steps near zero (2**-24).
    return bool(((one - two).abs() <= COARSEST_ROUNDING * one.abs() + 2.0**-24).all())
