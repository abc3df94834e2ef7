"""What `stabcheck init` has written, and what is still missing, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stabcheck.renderers.text import Paper

if TYPE_CHECKING:
    from stabcheck.starter.writing import Draft

LABEL = 18
"""Columns for a key."""


def render(
    draft: Draft,
    path: str,
    target: str,
    trouble: Sequence[str],
    *,
    tried: bool,
    width: int = 80,
    color: bool = False,
    ascii: bool = False,
) -> str:
    """The page about a draft that was written to `path`. `trouble` says what went wrong when it was `tried`."""
    paper = Paper(width, color, ascii)
    paper.write(paper.words((path, "bold"), " is written; nothing of yours was imported to write it."))
    if draft.wired:
        paper.heading("Found")
        for key, value in draft.wired.items():
            paper.hang(key, paper.words((value, "cyan")), room=LABEL if width >= 60 else len(key))
    paper.write()
    if not tried:
        needed = " and ".join(key for key in ("model", "train_loader") if key in draft.gaps)
        paper.write(paper.words((f"It cannot run yet: {needed} must be filled in first.", "yellow")))
    elif trouble:
        paper.write(paper.words(("It does not run yet:", "yellow")))
        for line in trouble:
            paper.hang("-", paper.words(line), room=1)
    else:
        paper.write(paper.words(("It runs: the set-up was built, and trained for a few steps.", "green")))
    if draft.notes:
        paper.heading("Look at this")
        for note in draft.notes:
            paper.hang("-", paper.words(note), room=1)
    if draft.gaps:
        paper.heading("Still missing (each lets more be checked; marked GAP in the file)")
        for key, what in draft.gaps.items():
            paper.hang("-", paper.words((key, "bold"), f": {what}"), room=1)
    paper.write()
    paper.write(paper.words(("Then: " if trouble or not tried else "Next: ", ""), (f"stabcheck run {target}", "bold")))
    return paper.text()
