"""Where output goes and how it may look: the streams of the command line and the files it was asked to write.

Only `cli` and `publishing` use this. Whether a file can be written is tried before the run, because a report that cannot be
written is best known before the minutes are spent.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TextIO

SAMPLE = "⣿│┤—…"
"""If a stream can encode these it can show a report as it is; if not, the report is in ASCII."""

SOURCES = (".py", ".pyi", ".ipynb", ".toml")
"""Endings of files that people write and no report has: none that exists is written over."""


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
    """A file that was promised on the command line. Nothing of it is touched before there is something to write; then it is
    replaced in one go, so that whatever happens, there is the earlier file or the new one.

    A `streamed` file is written into as things happen, and so is what is no plain file, such as a pipe.

    Raises:
        OutputError: it cannot be written, or holds source code.
    """

    def __init__(self, path: Path, option: str, *, streamed: bool = False) -> None:
        self.path, self._option = path, option
        self.written = False
        self._file: BinaryIO | None = None
        try:
            if path.is_dir():
                raise OutputError(f"{option} {path}: is a directory; name a file in it")
            if path.exists() and path.suffix.lower() in SOURCES:
                raise OutputError(f"{option} {path}: is a {path.suffix} file that is there already; name another file")
            self._in_place = streamed or (path.exists() and not path.is_file())
            _probe(path)
        except OSError as error:
            raise self._refused(error) from None

    def write(self, text: str) -> None:
        """Write the text; again only if it is streamed.

        Raises:
            OutputError: the disk is full, or the like.
        """
        try:
            place = self.path.resolve()
            place.parent.mkdir(parents=True, exist_ok=True)
            if self._in_place:
                self._file = self._file or self.path.open("wb")
                self._file.write(to_bytes(text))
                self._file.flush()
            else:
                _replace(place, to_bytes(text))
        except OSError as error:
            raise self._refused(error) from None
        self.written = True

    def close(self) -> None:
        """Close what was streamed."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # whatever could not be flushed was reported by `write`
                self._file.close()

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"{self._option} {self.path}: cannot be written ({error.strerror})")


def _probe(path: Path) -> None:
    """Raise the OSError that writing to `path` would end in, as far as it can be known."""
    if path.exists():
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not path.is_file():
            return
    folder = next(folder for folder in path.resolve().parents if folder.exists())
    # Whether a directory takes files shows only in making one.
    with tempfile.TemporaryFile(dir=folder):
        pass


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file, and put that in its place."""
    beside = path.with_name(f".{path.name[:64]}.{os.getpid()}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
        if path.exists():
            shutil.copymode(path, beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


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
def open_outputs(
    wanted: dict[str, Path | None], *, streamed: Container[str] = (), read: Iterable[Path] = ()
) -> Iterator[dict[str, OutputFile]]:
    """The files of those options (option -> path) that were given; none is a file that was `read` for the run.

    Raises:
        OutputError: one cannot be written, or two options name the same file.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, OutputFile] = {}
        taken: dict[Path, str] = {}
        for option, path in wanted.items():
            if path is None:
                continue
            if any(_same(path, other) for other in read):
                raise OutputError(f"{option} {path}: this run reads that file; name another")
            # One device can take several.
            if path.is_file() or not path.exists():
                other = taken.setdefault(path.resolve(), option)
                if other != option:
                    raise OutputError(f"{option} and {other} name the same file {path}")
            files[option] = OutputFile(path, option, streamed=option in streamed)
            stack.callback(files[option].close)
        yield files


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


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
