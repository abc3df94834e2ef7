"""Digests: 64 bits that are equal where samples are, and of two halves of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MIXER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it loses nothing; digests of several leaves are chained with it."""

BRIEF = 24
"""Characters. English has 1 to 1.5 bits a letter in context (Shannon 1951), so texts from this length on meet by chance
once in 10 to 10,000 million pairs; words and names do all the time."""


def digests(rows: Array | Sequence[Any]) -> Array:
    """(n, 3) uint64: of each row whole, and of two complementary halves; `rows` as `table.tidy` leaves them.

    At 64 bits, a million samples on either side give one false match in 20 million such comparisons. The halves take the
    same places in rows of any length. Those of a brief text are empty: words recur, whatever else is in the data.
    """
    if not len(rows):
        return np.empty((0, 3), np.uint64)
    if isinstance(rows, np.ndarray):
        coded, second = codes(rows), _second(rows.shape[1])
        whole, half = coded.sum(axis=1, dtype=np.uint64), coded[:, second].sum(axis=1, dtype=np.uint64)
    elif isinstance(rows[0], str):
        return _of_texts(rows)
    else:
        lengths = np.array([len(row) for row in rows])
        place = np.concatenate([np.arange(length) for length in lengths])
        coded = codes(np.concatenate(rows)[:, None], place[:, None])[:, 0]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        whole, half = (
            np.diff(np.concatenate([np.zeros(1, np.uint64), np.cumsum(part, dtype=np.uint64)])[ends])
            for part in (coded, np.where(_second(int(lengths.max()))[place], coded, np.uint64(0)))
        )
    return np.stack([whole, whole - half, half], axis=1)


def codes(rows: Array, place: Array | None = None) -> Array:
    """A uint64 for each number of (n, d), which depends on its value and its column (or `place`) and on nothing else.

    They look random, so that sums of them modulo 2**64 are equal only where the numbers are. The mixing is the finaliser
    of MurmurHash3.
    """
    bits = np.ascontiguousarray(rows).view(np.uint32 if rows.dtype == np.float32 else np.uint64)
    coded: Array = bits.astype(np.uint64)
    where = np.arange(rows.shape[1]) if place is None else place
    coded += (where.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        coded ^= coded >> np.uint64(33)
        coded *= np.uint64(factor)
    coded ^= coded >> np.uint64(33)
    return coded


def folded(rows: Array | Sequence[Any], whole: Array) -> Array:
    """Digests of texts without regard to case and spacing; `whole` for anything that is no text."""
    if isinstance(rows, np.ndarray) or not rows or not isinstance(rows[0], str):
        return whole
    return np.array([_of_text(" ".join(row.casefold().split())) for row in rows], np.uint64)


def _of_texts(rows: Sequence[str]) -> Array:
    second = _second(max(map(len, rows)))
    found = []
    for row in rows:
        halves = [itertools.compress(row, side) for side in (~second, second)] if len(row) >= BRIEF else ["", ""]
        found.append([_of_text(row), *(_of_text("".join(half)) for half in halves)])
    return np.array(found, np.uint64)


def _of_text(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@lru_cache
def _second(width: int) -> Array:
    """Which places belong to the second half: the Thue-Morse sequence, which has no period, so that channels or columns
    that take turns are in both halves."""
    return np.array([place.bit_count() % 2 == 1 for place in range(width)], bool)
