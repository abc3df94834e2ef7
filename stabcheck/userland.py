"""The one door to the user's code, with the blame settled on the way out.

    with userland("val_loader"):
        batch = next(iterator)

Whatever the user's code raises, `sys.exit` included, leaves as a `UserCodeError` that knows the stage,
the user's own file and line, and a traceback without our frames.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, TypeVar

Blame = Literal["target", "stabcheck"]
Owner = Literal["ours", "library", "user"]
_Result = TypeVar("_Result")

MESSAGE_LENGTH = 400
"""Characters of an exception's text that are shown; some hold whole tensors."""
TRACE_LINES = 120
"""Lines of a traceback that are kept, half from each end: a mutual recursion prints thousands."""

_OURS = str(Path(__file__).resolve().parent) + os.sep
_LIBRARIES = tuple({sysconfig.get_paths()[key] + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")})
_PACKAGE_FOLDER = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_FRAME = re.compile(r'^\s*File "(?P<file>.+?)", line (?P<line>\d+)', re.MULTILINE)
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")

_adopted: set[str] = set()


class UsageError(ValueError):
    """An option that cannot be meant. The message is one line: what is wrong and what to do."""


class UserCodeError(Exception):
    """Something the user gave raised, exited or returned what it must not."""

    def __init__(
        self,
        stage: str,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        trace: str = "",
        blame: Blame = "target",
    ) -> None:
        super().__init__(message)
        self.stage, self.message, self.file, self.line = stage, message, file, line
        self.trace, self.blame = trace, blame

    def __str__(self) -> str:
        where = f" ({self.file}:{self.line})" if self.file else ""
        return f"{self.stage}: {self.message}{where}"


@contextmanager
def userland(stage: str) -> Iterator[None]:
    """Run the user's code inside; `stage` names it as the user knows it (`val_loader`, `train_step`).

    Raises:
        UserCodeError: for anything raised inside but a request to stop and a UserCodeError of an inner door.
    """
    process = os.getpid()
    try:
        yield
    except (UserCodeError, GeneratorExit):
        raise
    except BaseException as error:
        if is_request_to_stop(error):
            raise
        raise blamed(stage, error) from error
    finally:
        if os.getpid() != process:
            os._exit(0)  # a fork that the user's code made: only the first process is ours


def blamed(stage: str, error: BaseException, *, default: Blame = "target") -> UserCodeError:
    """The `UserCodeError` for an exception that came out of `stage`, blamed by its innermost own frame; `default` is
    to blame where no frame of the user's is on the stack."""
    innermost: Owner | None = None
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = _owner(frame.f_code.co_filename)
        if frame.f_code is passed_on.__code__:
            # Our own frames since the user's were only in between.
            innermost = "user" if place is not None else None
        elif owner != "library":
            innermost = owner
        if owner == "user":
            place = (frame.f_code.co_filename, line)
    blame: Blame = default
    if innermost == "user" or isinstance(error, (MemoryError, UsageError)):
        blame = "target"
    elif innermost == "ours" and place is not None:
        # Raised in one of our hooks while the user's code is on the stack.
        blame = "stabcheck"
    message, inner_place = _say(error)
    file, line_number = inner_place or _syntax_place(error) or place or (None, None)
    return UserCodeError(
        stage,
        message,
        file=file,
        line=line_number,
        trace=_trace(error, keep_ours=blame == "stabcheck"),
        blame=blame,
    )


def is_request_to_stop(error: BaseException) -> bool:
    """Whether a person wants it to end: Ctrl-C, or the debugger quit."""
    bdb = sys.modules.get("bdb")  # imported if there is a debugger
    return isinstance(error, KeyboardInterrupt) or (bdb is not None and isinstance(error, bdb.BdbQuit))


def passed_on(function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
    """Call the function that the user's call was meant for, out of a wrapper of ours that stands in its place: what
    it raises is theirs."""
    return function(*args, **kwargs)


def adopt(file: str) -> None:
    """Count an installed file as the user's, with all of its package: it holds the TARGET."""
    path = Path(os.path.abspath(file))
    package = path.parent
    if not (package / "__init__.py").exists():
        _adopted.add(str(path))
        return
    while (package.parent / "__init__.py").exists():
        package = package.parent
    _adopted.add(str(package) + os.sep)


def is_users(filename: str) -> bool:
    """Whether a source file belongs to the user: neither to stabcheck nor to Python or an installed package."""
    return _owner(filename) == "user"


def users_line(frame: FrameType | None) -> tuple[str, int] | None:
    """File and line of the innermost code of the user's at or around `frame`."""
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def users_frame(trace: str) -> tuple[str, int] | None:
    """The last frame of the user's in the text of a traceback; None if there is none."""
    frames = [(match["file"], int(match["line"])) for match in _FRAME.finditer(trace)]
    return next((frame for frame in reversed(frames) if is_users(frame[0])), None)


def shown(path: str) -> str:
    """A file's path as the user would write it: relative to the current directory where it is inside."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the directory is gone, or on another drive
        return path
    return path if relative.startswith(os.pardir) else relative


def clean(text: str) -> str:
    """`text` without terminal escapes, control characters and what cannot be written as UTF-8."""
    return _UNPRINTABLE.sub("", text).encode("utf-8", "replace").decode()


def shortened(trace: str) -> str:
    """A traceback of at most `TRACE_LINES` lines, without its middle where it is longer."""
    lines = trace.splitlines()
    if len(lines) <= TRACE_LINES:
        return trace
    half = TRACE_LINES // 2
    left_out = len(lines) - 2 * half
    return "\n".join([*lines[:half], f"  ... {left_out} lines left out ...", *lines[-half:]])


def _owner(filename: str) -> Owner:
    path = os.path.abspath(filename)
    if path.startswith(_OURS):
        return "ours"
    if any(path.startswith(adopted) for adopted in _adopted):
        return "user"
    # Generated code ("<string>", "<eval_with_key>") has no line that a user could look at.
    if filename.startswith("<") or path.startswith(_LIBRARIES) or _PACKAGE_FOLDER.search(path):
        return "library"
    return "user"


def _say(error: BaseException) -> tuple[str, tuple[str, int] | None]:
    """(sentence, place where the text itself names one) of an exception."""
    if isinstance(error, SystemExit):
        return _said_on_exit(error) or f"called sys.exit({error.code!r}): a set-up must return, not exit", None
    if isinstance(error, KeyboardInterrupt):
        return "raised KeyboardInterrupt", None
    if is_request_to_stop(error):
        return "stopped at a breakpoint: take it out, or use --in-process", None
    name = type(error).__name__
    try:
        text = clean(str(error))
    except BaseException as unprintable:  # the user's own __str__ may raise anything
        return f"{name} (its text cannot be shown: {type(unprintable).__name__})", None
    place = None
    if "Original Traceback" in text:
        # A DataLoader worker's exception, whose text is the worker's whole traceback.
        place = users_frame(text)
        last = text.strip().splitlines()[-1]
        text = f"{last.removeprefix(name).removeprefix(':').strip()} (in a DataLoader worker)"
    text = " ".join(text.split())
    if len(text) > MESSAGE_LENGTH:
        text = text[:MESSAGE_LENGTH] + " …"
    if isinstance(error, MemoryError) and not text:
        text = "out of memory"
    return (f"{name}: {text}" if text else name), place


def _said_on_exit(error: SystemExit) -> str:
    """What a parser of the command line complained of, which exits after it has printed it; "" if none did."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_name == "error" and Path(code.co_filename).name == "argparse.py":
            said = " ".join(clean(str(frame.f_locals.get("message"))).split())
            return (
                f"argparse: {said}; set sys.argv in the entry function to the arguments of your run, or give it "
                "parameters, which --arg NAME=VALUE fills"
            )
    return ""


def _syntax_place(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, SyntaxError) and error.filename and error.lineno and is_users(error.filename):
        return error.filename, error.lineno
    return None


def _trace(error: BaseException, *, keep_ours: bool) -> str:
    trace: TracebackType | None = error.__traceback__
    while trace is not None and not keep_ours and _owner(trace.tb_frame.f_code.co_filename) == "ours":
        trace = trace.tb_next
    try:
        return shortened(clean("".join(traceback.format_exception(type(error), error, trace))))
    except BaseException:  # an exception whose text or notes cannot be made
        return "".join(traceback.format_tb(trace))
