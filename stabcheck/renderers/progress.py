"""The live display: what is running, how far it is, and for how long. Gone when the run is over."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from stabcheck.events import CheckFinished, Event, Finished, Loaded, Progress
from stabcheck.renderers.text import clean, clip

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

TITLES = {"loading": "loading the set-up", "trial": "training for a few steps"}


class Display:
    """Two lines on a terminal: the checks as a whole, and what is under way. A context manager.

    Args:
        stream: a terminal.
        checks: how many checks are to run.
    """

    def __init__(self, stream: TextIO, *, checks: int, color: bool, ascii: bool) -> None:
        self._stream, self._checks, self._color, self._ascii = stream, checks, color, ascii
        self._bars: Bars | None = None
        self._all: TaskID | None = None
        self._now: TaskID | None = None
        self._doing, self._done = "", 0

    def __enter__(self) -> Display:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        console = Console(
            file=self._stream,
            force_terminal=True,
            color_system="standard" if self._color else None,
            no_color=not self._color,
            highlight=False,
            emoji=False,
        )
        self._bars = Bars(
            SpinnerColumn("line" if self._ascii else "dots"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bars.start()
        self._all = self._bars.add_task("checks", total=self._checks, detail=f"0 of {self._checks} done")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, event: Event) -> None:
        """Bring the display up to date with what just happened."""
        bars, everything = self._bars, self._all
        if bars is None or everything is None:
            return
        if isinstance(event, Progress):
            if event.doing != self._doing:
                self._leave()
                self._doing = event.doing
                self._now = bars.add_task(TITLES.get(event.doing, event.doing), total=None, detail="")
            if self._now is not None:
                total = None if event.fraction is None else 1.0
                detail = clip(clean(event.detail, ascii=self._ascii), 40)
                bars.update(self._now, total=total, completed=event.fraction or 0.0, detail=detail)
        elif isinstance(event, CheckFinished):
            self._leave()
            self._done += 1
            bars.update(everything, completed=self._done, detail=f"{self._done} of {self._checks} done")
        elif isinstance(event, (Loaded, Finished)):
            self._leave()
        # Drawn at once, or the clock might never show a check that takes milliseconds.
        bars.refresh()

    def _leave(self) -> None:
        if self._bars is not None and self._now is not None:
            self._bars.remove_task(self._now)
        self._now, self._doing = None, ""
