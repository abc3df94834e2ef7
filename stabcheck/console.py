"""Where output goes and how it may look: the streams of the command line and the files it was asked to write.

Only `cli` and `publishing` use this. A file is opened before the run, because a report that cannot be written is best known before
the minutes are spent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

SAMPLE = "⣿│┤—…"
"""If a stream can encode these it can show a report as it is; if not, the report is in ASCII."""


@dataclass(frozen=True)
class Look:
    """How a stream is to be written to."""

    width: int
    color: bool
    ascii: bool
    moving: bool
    """Whether something that moves can be shown."""

    @classmethod
    def of(cls, stream: TextIO | None, choice: str = "auto") -> Look:
        """The width of the terminal (80 in a pipe, COLUMNS wins), and colour where it is wanted and understood."""
        terminal = _is_terminal(stream)
        columns = shutil.get_terminal_size((80, 24)).columns if terminal or os.environ.get("COLUMNS") else 80
        moving = terminal and os.environ.get("TERM") != "dumb"
        return cls(columns, _wants_color(terminal, choice), not _can_encode(stream), moving)

    def options(self) -> dict[str, Any]:
        """For a renderer."""
        return {"width": self.width, "color": self.color, "ascii": self.ascii}


class OutputError(Exception):
    """A file or stream cannot be written. The message is one line: what and what to do."""


class OutputFile:
    """A file that was promised on the command line. Emptied at the start, and removed if nothing gets written: the
    report of an earlier run must not be taken for this one's.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, option: str) -> None:
        self.path, self._option = path, option
        self.written = False
        if path.is_dir():
            raise OutputError(f"{option} {path}: is a directory; name a file in it")
        if not path.parent.is_dir():
            raise OutputError(f"{option} {path}: there is no directory {path.parent}; create it first")
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise OutputError(f"{option} {path}: cannot be written ({error.strerror})") from None

    def write(self, text: str) -> None:
        """Write the text.

        Raises:
            OutputError: the disk is full, or the like.
        """
        try:
            self._file.write(to_bytes(text))
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self._option} {self.path}: cannot be written ({error.strerror})") from None
        self.written = True

    def close(self) -> None:
        """Close it, and remove it if it is a plain file that was never written."""
        with contextlib.suppress(OSError):  # whatever could not be flushed was reported by `write`
            self._file.close()
        if not self.written and self.path.is_file():
            self.path.unlink()


def to_bytes(text: str) -> bytes:
    """UTF-8, with a lone surrogate (an undecodable byte of a file name) as the escape that JSON has for it too."""
    return text.encode("utf-8", "backslashreplace")


def write(stream: TextIO | None, text: str, *, utf8: bool = False) -> None:
    """Write and flush; a reader that has gone away is no error. `utf8` whatever the locale, as JSON has to be.

    Raises:
        OutputError: the stream is closed, or cannot be written for another reason, such as a full disk.
    """
    name = "standard error" if stream is sys.stderr else "standard output"
    if stream is None:
        raise OutputError(f"{name} is closed")
    try:
        buffer = getattr(stream, "buffer", None)
        if utf8 and buffer is not None:
            stream.flush()
            buffer.write(to_bytes(text))
            buffer.flush()
        else:
            encoding = getattr(stream, "encoding", None) or "utf-8"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except OSError as error:
        # Python flushes the stream again at exit; let that go nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"{name} cannot be written ({error.strerror})") from None


class StdoutToStderr:
    """While it lasts, whatever is printed in this process or its children goes to standard error: standard output is
    for the report alone."""

    def __enter__(self) -> None:
        self._redirect = contextlib.redirect_stdout(sys.stderr)
        sys.stdout.flush()
        self._kept = os.dup(1)
        os.dup2(2, 1)
        self._redirect.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redirect.__exit__(kind, error, trace)
        sys.stderr.flush()
        os.dup2(self._kept, 1)
        os.close(self._kept)


@contextlib.contextmanager
def open_outputs(wanted: dict[str, Path | None]) -> Iterator[dict[str, OutputFile]]:
    """Open the files of those options (option -> path) that were given.

    Raises:
        OutputError: one cannot be written, or two options name the same file.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, OutputFile] = {}
        for option, path in wanted.items():
            if path is None:
                continue
            for other, file in files.items():
                if path.exists() and path.samefile(file.path) and path.is_file():
                    raise OutputError(f"{option} and {other} name the same file {path}")
            files[option] = OutputFile(path, option)
            stack.callback(files[option].close)
        yield files


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # replaced or closed
        return False


def _wants_color(terminal: bool, choice: str) -> bool:
    # https://no-color.org and https://force-color.org: set and not empty; the option wins over both.
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return terminal and os.environ.get("TERM") != "dumb"


def _can_encode(stream: TextIO | None) -> bool:
    try:
        SAMPLE.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
