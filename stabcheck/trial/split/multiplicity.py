"""How many versions of one sample there are: a number that someone chose, or one that chance gives.

Where samples are alike because the data have only so many forms (a shape at one of a hundred places, a person who is drawn
again), each form is drawn a Poisson number of times, with a mean of its own. For any mixture of Poisson counts j! P(j) is
log-convex in j (Cauchy and Schwarz), so that of the forms that are there f(j + 1) >= j / (j + 1) * f(j)**2 / f(j - 1) come
j + 1 times, and any random part of the data keeps it. Copies that were made on purpose, one or three of some samples or of
all, break it: some of their numbers are frequent, and the next is rare.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ERRORS = 3.0
"""Standard errors by which the two numbers that the least is computed from may be off."""


def made_p(others: Array, most: int) -> float:
    """Chance of numbers of versions that break the inequality as far as these do, 1 where none does.

    `others`: for each sample, how many others have its form; `most` stands for any number from there on.
    """
    times = np.bincount(np.minimum(others, most), minlength=most + 1)[:most]
    forms = times / np.arange(1, most + 1)  # forms[k]: those of k + 1 samples
    least = 1.0
    for k in range(1, most - 1):
        sure = forms[k] - ERRORS * math.sqrt(forms[k])
        before = forms[k - 1] + ERRORS * math.sqrt(forms[k - 1] + 1)
        if sure > 0:
            least = min(least, _few(forms[k + 1], (k + 1) / (k + 2) * sure**2 / before))
    return least


def _few(seen: float, mean: float) -> float:
    """P(X <= seen), X Poisson with this mean."""
    terms = (i * math.log(mean) - mean - math.lgamma(i + 1) for i in range(math.floor(seen) + 1))
    return min(1.0, sum(map(math.exp, terms)))
