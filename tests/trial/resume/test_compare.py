from __future__ import annotations

import math

import pytest
import torch

from stabcheck.trial.resume.compare import differences, distance, heals, is_shaped_like_weights, same, same_numbers
from stabcheck.trial.resume.state import SAMPLE, Kind, Leaf, fingerprint, sample


def tensor(value: torch.Tensor, kind: Kind = "weight", part: str = "model") -> Leaf:
    return Leaf(part, kind, value.reshape(-1), tuple(value.shape))


def number(value: object, kind: Kind = "number") -> Leaf:
    return Leaf("x", kind, value)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (number(3), number(3.0), True),
        (number(math.nan), number(math.nan), True),
        (number(None), None, True),
        (number(0), None, False),
        (number("a"), number("b"), False),
        (number(6), tensor(torch.tensor(6.0)), True),
        (tensor(torch.tensor([1.0, math.nan])), tensor(torch.tensor([1.0, math.nan])), True),
        (tensor(torch.tensor([1.0])), tensor(torch.tensor([1.0 + 2**-23])), False),
        (tensor(torch.ones(2)), tensor(torch.ones(2, dtype=torch.float64)), False),
        (tensor(torch.ones(2, 3)), tensor(torch.ones(3, 2)), False),
        (tensor(torch.ones(2)), number(1.0), False),
    ],
)
def test_same(one, two, expected):
    assert same(one, two) is expected


def test_same_numbers():
    assert same_numbers([1.0, None, math.nan], [1.0, None, math.nan])
    assert not same_numbers([1.0], [1.0, 2.0])
    assert not same_numbers([None], [0.0])


@pytest.mark.parametrize("seed", range(3))
def test_a_difference_says_whether_anything_was_loaded_and_whether_it_is_rounding(seed):
    g = torch.Generator().manual_seed(seed)
    saved, fresh = torch.randn(50, generator=g), torch.randn(50, generator=g)
    expected = {"a": tensor(saved), "b": tensor(saved), "c": tensor(saved), "d": tensor(saved)}
    start = dict.fromkeys(expected, tensor(fresh))
    actual = {
        "a": tensor(fresh),
        "b": tensor(saved.half().float()),
        "c": tensor(saved.bfloat16().float()),
        "d": tensor(saved),
    }

    found = {d.path: (d.untouched, d.rounded) for d in differences(expected, actual, start)}

    assert found == {"a": (True, False), "b": (False, True), "c": (False, True)}


def test_weights_off_by_one_percent_are_not_rounded():
    saved = torch.randn(50, generator=torch.Generator().manual_seed(0))

    (found,) = differences({"a": tensor(saved)}, {"a": tensor(saved * 1.01)}, {})

    assert not found.rounded


def test_distance_is_the_norm_of_all_differences():
    one = {"a": tensor(torch.randn(3, 4)), "b": tensor(torch.randn(5)), "n": number(1)}
    two = {"a": tensor(torch.randn(3, 4)), "b": tensor(torch.randn(5)), "n": number(2)}

    joined = [torch.cat([state["a"].value, state["b"].value]) for state in (one, two)]
    assert distance(one, two) == pytest.approx(float((joined[0] - joined[1]).norm()))
    assert distance({"a": one["a"]}, {}) == 0.0
    assert math.isnan(distance({"a": tensor(torch.tensor([math.nan]))}, {"a": tensor(torch.zeros(1))}))


def test_a_copy_of_the_weights_is_known_by_its_shapes():
    weights = {f"w{i}": tensor(torch.zeros(shape)) for i, shape in enumerate([(4, 3), (4,), (2, 4), (2,)])}
    copy = {f"c{i}": tensor(torch.zeros(shape), "tensor") for i, shape in enumerate([(4, 3), (2, 4)])}
    flat = {"flat": tensor(torch.zeros(12 + 4 + 8 + 2), "tensor")}
    counts = {"per class": tensor(torch.zeros(2), "tensor"), "centre": tensor(torch.zeros(1, 2), "tensor")}
    state = {**weights, **copy, **flat, **counts}

    assert is_shaped_like_weights(list(copy), state)
    assert is_shaped_like_weights(list(flat), state)
    assert not is_shaped_like_weights(list(counts), state)
    assert not is_shaped_like_weights(["c0"], state)


def _heals(decay: float, steps: int = 4, *, parted: bool = False) -> bool:
    """Two averages of the same weights, one of them started anew."""
    weights = [torch.full((3,), float(i)) for i in range(steps)]
    kept, anew = torch.full((3,), -5.0), torch.full((3,), 5.0)
    states = [{"average": tensor(kept, "tensor")}, {"average": tensor(anew, "tensor")}]
    for w in weights:
        kept, anew = decay * kept + (1 - decay) * w, decay * anew + (1 - decay) * w
    ends = [
        {"average": tensor(x, "tensor"), "w": tensor(weights[-1] + shift)} for x, shift in ((kept, 0.0), (anew, parted))
    ]
    return heals(["average"], states[0], ends[0], states[1], ends[1])


def test_a_copy_of_the_last_weights_heals_and_an_average_does_not():
    assert _heals(0.0)
    assert not _heals(0.5)
    assert not _heals(0.9)
    # Where the runs have parted only the larger part of the distance counts.
    assert _heals(0.5, parted=True)
    assert not _heals(0.9, parted=True)


def test_a_sample_is_evenly_spread_and_does_not_follow_the_columns():
    table = torch.arange(4.0).repeat(SAMPLE, 1)

    part = sample(table)

    assert SAMPLE / 2 <= part.numel() <= SAMPLE
    assert set(part.tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert sample(torch.arange(9.0).view(3, 3)).tolist() == list(range(9))
    assert sample(torch.tensor(2.0)).tolist() == [2.0]
    assert sample(torch.tensor([1 + 2j])).tolist() == [1.0, 2.0]


def test_a_sample_shares_no_memory():
    weights = torch.zeros(3)
    part = sample(weights)
    weights += 1

    assert part.tolist() == [0.0, 0.0, 0.0]


def test_fingerprints_tell_batches_apart():
    x, y = torch.randn(4, 2), torch.tensor([True, False])

    assert fingerprint((x, y)) == fingerprint({"a": x.clone(), "b": y.clone()})
    assert fingerprint((x, y)) != fingerprint((x.flip(0), y))
    assert fingerprint(["one text"]) != fingerprint(["another text"])
