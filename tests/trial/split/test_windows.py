"""Windows of one series are found by what they share, and windows that only look alike are not."""

from __future__ import annotations

import numpy as np
import pytest

from stabcheck.trial.split.windows import overlap, seams

Array = np.ndarray


def cut(series: Array, steps: int, starts: range | Array) -> Array:
    return np.stack([series[s : s + steps].reshape(-1) for s in starts])


def series(kind: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    if kind == "walk":
        return np.cumsum(rng.normal(size=4000)).astype(np.float32)
    if kind == "letters":
        return rng.choice(27, 4000, p=np.arange(27) / 351)
    return rng.normal(size=(4000, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["walk", "letters", "channels"])
@pytest.mark.parametrize("stride", [1, 7, 10])
def test_shares_match_the_starts_of_the_windows(kind: str, stride: int) -> None:
    steps, rng = 32, np.random.default_rng(stride)
    starts = rng.permutation(np.arange(0, 3900, stride))[:400]
    ours, theirs = np.sort(starts[:100]), np.sort(starts[100:])
    found = overlap(cut(series(kind, 0), steps, theirs), cut(series(kind, 0), steps, ours), steps)
    begin = [any(0 < s - t <= steps // 2 for t in theirs) for s in ours]
    end = [any(0 < t - s <= steps // 2 for t in theirs) for s in ours]
    assert found.begin == pytest.approx(np.mean(begin), abs=0.02)
    assert found.end == pytest.approx(np.mean(end), abs=0.02)
    assert all(theirs[t] - ours[v] == by for t, v, by in found.pairs)


@pytest.mark.parametrize("seed", range(3))
def test_after_a_split_in_time_no_window_ends_in_training(seed: int) -> None:
    windows = cut(series("walk", seed), 24, range(3900))
    found = overlap(windows[:3000], windows[3000:], 24)
    assert found.end == 0.0
    assert 0 < found.begin < 0.05


@pytest.mark.parametrize("length", [32, 50])
def test_set_phrases_are_no_overlap(length: int) -> None:
    """Blocks of a program do not overlap, though many of them hold the same lines."""
    rng = np.random.default_rng(0)
    lines = [f"    self.{'abcdefgh'[i]}_value = {'stuvwxyz'[i]}.get_default()\n" for i in range(8)]
    names = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 9)) for _ in range(4000)]
    text = "".join(lines[rng.integers(8)] if rng.random() < 0.2 else f"    {name}()\n" for name in names)
    letters = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    blocks = rng.permutation(letters[: len(letters) // length * length].reshape(-1, length))
    found = overlap(blocks[: len(blocks) * 3 // 4], blocks[len(blocks) * 3 // 4 :], length)
    assert max(found.begin, found.end) < 0.1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "make",
    [
        lambda rng: rng.integers(0, 2, (1500, 16)),
        lambda rng: rng.integers(0, 4, (1500, 12)),
        lambda rng: np.cumsum(rng.integers(-1, 2, (1500, 16)), axis=1),
        lambda rng: np.cumsum(rng.random((1500, 24)) < 0.05, axis=1) % 2,
        lambda rng: np.ones((1500, 16), np.int64),
        lambda rng: np.tile(rng.integers(0, 50, (1500, 4)), 4),
    ],
    ids=["bits", "bases", "whole-number walks", "switches", "constant", "periodic"],
)
def test_windows_that_look_alike_by_chance_do_not_overlap(make: object, seed: int) -> None:
    windows = np.ascontiguousarray(make(np.random.default_rng(seed)), dtype=np.int64)  # type: ignore[operator]
    found = overlap(windows[:1200], windows[1200:], windows.shape[1])
    assert found.begin == found.end == 0.0


def passages(seed: int) -> Array:
    """Text of which a third are eight passages that recur."""
    rng = np.random.default_rng(seed)
    recurring = rng.integers(0, 90, (8, 120))
    parts = [recurring[rng.integers(8)] if rng.random() < 1 / 3 else rng.integers(0, 90, 120) for _ in range(300)]
    return np.concatenate([part[rng.integers(30) :] for part in parts])


@pytest.mark.parametrize("seed", range(3))
def test_only_windows_cut_edge_to_edge_have_seams(seed: int) -> None:
    text, steps, rng = passages(seed), 32, np.random.default_rng(seed)
    last = len(text) - steps
    blocks, starts = np.arange(0, last, steps), rng.integers(0, last, len(text) // steps)
    half = rng.permutation(np.arange(0, last, steps // 2))
    found = {}
    for name, order in (("blocks", blocks), ("random starts", starts), ("half-overlapping", half)):
        cuts = cut(text, steps, order)
        train, val = cuts[: len(cuts) * 3 // 4], cuts[len(cuts) * 3 // 4 :]
        found[name] = seams(train, val, steps, overlap(train, val, steps))
    assert found["blocks"] > 0.5
    assert found["random starts"] < 0.1
    assert found["half-overlapping"] < 0.1
