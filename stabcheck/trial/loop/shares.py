"""How much each micro-batch counts in the gradient that they make up together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Gradients = dict[str, torch.Tensor]

MOST = 16
"""Micro-batches that are told apart: the products of all pairs of gradients are needed."""
FITS = 0.01
"""Share of the gradient that no mixture of the micro-batches' own explains, above which it holds something else: a
penalty that only the step adds, other randomness. Of what it should hold, in single precision, 1e-5 is left at most."""
DISTINCT = 1e-4
"""Smallest eigenvalue of the cosines between the gradients: below it two of them are so alike that their shares cannot be told."""


def shares(parts: Sequence[Gradients], whole: Gradients) -> tuple[float, ...] | None:
    """The weights w with which the sum of w_i * parts[i] is `whole`, by least squares; None if there are no such weights,
    or more than one choice of them."""
    if not 2 <= len(parts) <= MOST:
        return None
    gram = torch.tensor([[dot(a, b) for b in parts] for a in parts], dtype=torch.float64)
    lengths = gram.diagonal().sqrt()
    square = dot(whole, whole)
    if not (math.isfinite(square) and square > 0 and bool(torch.isfinite(gram).all()) and bool((lengths > 0).all())):
        return None
    cosines = gram / lengths.outer(lengths)
    if float(torch.linalg.eigvalsh(cosines)[0]) < DISTINCT:
        return None
    right = torch.tensor([dot(part, whole) for part in parts], dtype=torch.float64)
    found = torch.linalg.solve(cosines, right / lengths) / lengths
    left = square - 2 * float(found @ right) + float(found @ gram @ found)
    return tuple(found.tolist()) if left <= FITS**2 * square else None


def dot(a: Gradients, b: Gradients) -> float:
    """The product of two gradients, over the parameters that both have."""
    return math.fsum(float((a[name].double() * b[name].double()).sum()) for name in a.keys() & b.keys())
