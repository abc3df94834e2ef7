"""The command line's part between the events of a run and what is printed and written of them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stabcheck.console import Look, OutputFile, StdoutToStderr, open_outputs, to_bytes, write
from stabcheck.interrupts import Terminated
from stabcheck.renderers.text import STATUS_WORDS, clean
from stabcheck.selection import UsageError
from stabcheck.setup import nearest

if TYPE_CHECKING:
    from stabcheck.arguments import Color
    from stabcheck.events import Event
    from stabcheck.options import Options
    from stabcheck.recording import Recording
    from stabcheck.report import CheckResult, Report

NO_VERDICT = 2


def formats(
    output: Sequence[str] | None, output_format: str | None, json: str | None, *, events: bool = True
) -> dict[str, Path | None]:
    """Format -> the file it goes to, None for standard output, from the options of these names.

    Raises:
        UsageError: a format that is not known, given twice, or a second one for standard output.
    """
    from stabcheck.renderers.formats import EVENTS, FORMATS

    words = [*(output or ()), *([f"{output_format}=-"] if output_format else ()), *([f"json={json}"] if json else ())]
    wanted: dict[str, Path | None] = {}
    for word in words:
        name, _, path = word.partition("=")
        if name not in FORMATS:
            raise UsageError(f"-o {word}: there is no format {name!r}{nearest(name, FORMATS)}; write FORMAT=PATH")
        if not path:
            raise UsageError(f"-o {word}: write {name}=PATH, or {name}=- for standard output")
        if name == EVENTS and not events:
            raise UsageError(f"-o {word}: a recording has no events; use -o json={path}")
        if name in wanted:
            raise UsageError(f"-o {word}: {name} is given twice")
        wanted[name] = None if path == "-" else Path(path)
    if sum(path is None for path in wanted.values()) > 1:
        raise UsageError("only one format can go to standard output: give the others a file")
    return wanted


def require(*wanted: Mapping[str, Path | None]) -> None:
    """Make sure, before anything runs, that every format can be written.

    Raises:
        UsageError: one needs a package that is not installed.
    """
    from stabcheck.renderers.formats import missing

    for name in (name for formats in wanted for name in formats):
        if lack := missing(name):
            raise UsageError(f"-o {name}: {lack}")


class Shown:
    """What of the report is shown, where and how."""

    def __init__(
        self, wanted: Mapping[str, Path | None], quiet: bool, verbose: bool, strict: bool, color: Color, name: str = ""
    ) -> None:
        self.on_stdout = next((name for name, path in wanted.items() if path is None), None)
        """The format that has standard output to itself."""
        self.quiet, self.verbose, self.strict = quiet, verbose, strict
        self.name = name
        """Of the target, to tell several apart."""
        self.stream = sys.stderr if self.on_stdout else sys.stdout
        self.look = Look.of(self.stream, color)
        self.live = Look.of(sys.stderr, color)


@contextlib.contextmanager
def outputs(
    wanted: Mapping[str, Path | None],
    log_gradients: Path | None,
    save_recording: Path | None = None,
    *,
    read: Iterable[Path] = (),
    quiet: bool = False,
) -> Iterator[dict[str, OutputFile]]:
    """The files to write, by option; what cannot be written is known now, before the run. At the end, whatever it is, a line
    on standard error names those that were written, unless `quiet`."""
    from stabcheck.renderers.formats import EVENTS
    from stabcheck.renderers.gradients import FORMATS

    if log_gradients is not None and log_gradients.suffix.lower() not in FORMATS:
        raise UsageError(f"--log-gradients {log_gradients}: the name must end in {' or '.join(FORMATS)}")
    reports = {f"-o {name}": path for name, path in wanted.items()}
    paths = {**reports, "--save-recording": save_recording, "--log-gradients": log_gradients}
    with open_outputs(paths, streamed=[f"-o {EVENTS}"], read=read) as files:
        try:
            yield files
        finally:
            written = [str(file.path) for file in files.values() if file.written]
            if written and not quiet:
                say(f"wrote {', '.join(written)}")


def listen(target: str, options: Options, shown: Shown, files: dict[str, OutputFile]) -> tuple[Report, bool]:
    """Run the checks: the report, and whether the set-up could be loaded at all."""
    from stabcheck import events as happened
    from stabcheck.catalog import RETIRED, everything
    from stabcheck.engine import events
    from stabcheck.ledger import Ledger
    from stabcheck.selection import choose

    selection = choose(everything(), options.select, options.ignore, RETIRED, options.severities)
    checks = len(selection.checks)
    results: list[CheckResult] = []
    facts: dict[str, Any] | None = None
    try:
        with contextlib.ExitStack() as stack:
            if options.in_process:
                stack.enter_context(StdoutToStderr())
            display = stack.enter_context(_display(shown, options, checks))
            stream = events(target, options)
            stack.callback(stream.close)  # type: ignore[attr-defined]
            for event in stream:
                display(event)
                _write_event(event, files, shown)
                if isinstance(event, happened.Loaded):
                    facts = event.facts
                elif isinstance(event, happened.Recorded):
                    write_recorded(files, event.recording)
                elif isinstance(event, happened.CheckFinished):
                    results.append(event.result)
                elif isinstance(event, happened.Finished):
                    return event.report, facts is not None
    except (KeyboardInterrupt, Terminated):
        _say_partial(results, checks, are_written=bool(results and (files or shown.on_stdout)))
        if results:
            _write_reports(Ledger(target, options, selection).interrupted(results, facts or {}), files, shown)
        raise
    raise AssertionError("the last event is Finished")


@contextlib.contextmanager
def _display(shown: Shown, options: Options, checks: int) -> Iterator[Callable[[Event], None]]:
    """Shows what is under way, where a person can see it and nothing else is printed there."""
    if shown.quiet or options.verbose or options.in_process or not shown.live.moving:
        yield lambda event: None
        return
    from stabcheck.renderers.progress import Display

    with Display(sys.stderr, checks=checks, color=shown.live.color, ascii=shown.live.ascii) as display:
        yield display.show


def write_recorded(files: dict[str, OutputFile], recording: Recording) -> None:
    """Write the files that are made from the recording, as far as they are wanted."""
    from stabcheck.recording import to_json
    from stabcheck.renderers import gradients

    if file := files.get("--save-recording"):
        file.write(to_json(recording) + "\n")
    if file := files.get("--log-gradients"):
        file.write(gradients.render(recording, file.path.suffix.lower()))


def publish(report: Report, files: dict[str, OutputFile], shown: Shown) -> int:
    """Write the report everywhere it is wanted; the exit code."""
    from stabcheck.catalog import everything
    from stabcheck.renderers.terminal import render, verdict_line
    from stabcheck.report import exit_code

    _write_reports(report, files, shown)
    for option, file in files.items():
        if not file.written:
            say(f"{option} {file.path} was not written: nothing was recorded")
    if not shown.quiet:
        look = shown.look.options()
        text = render(report, **look, catalog=everything(), base=os.getcwd(), verbose=shown.verbose)
        write(shown.stream, text)
    elif not shown.on_stdout:
        whose = f"{shown.name}: " if shown.name else ""
        write(
            sys.stdout,
            f"{whose}{verdict_line(report, ascii=shown.look.ascii, catalog=everything(), base=os.getcwd())}\n",
        )
    return exit_code(report, strict=shown.strict)


def publish_comparison(
    old: Report, new: Report, names: tuple[str, str], look: Look, *, as_json: bool, quiet: bool, verbose: bool
) -> int:
    """Print what is different in the report `new`; the exit code. `names` are those of the files."""
    from json import dumps

    from stabcheck.catalog import CATALOG
    from stabcheck.comparison import compare
    from stabcheck.renderers.diff import render, verdict

    comparison = compare(old, new)
    if as_json:
        write(sys.stdout, dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n", utf8=True)
    elif quiet:
        write(sys.stdout, clean(verdict(comparison), ascii=look.ascii) + "\n")
    else:
        text = render(comparison, names, **look.options(), catalog=CATALOG, base=os.getcwd(), verbose=verbose)
        write(sys.stdout, text)
    return 1 if comparison.worse else 0


def say_not_loaded(report: Report, files: dict[str, OutputFile], shown: Shown) -> int:
    """One line says why nothing could be checked; JSON has it for every check."""
    _write_reports(report, files, shown)
    error = next(check.error for check in report.checks if check.error is not None)
    if error.blame == "stabcheck":
        what = f"a fault of stabcheck, not of your set-up: {error.message}"
    else:
        what = error.message if error.stage == "TARGET" else f"{error.stage}: {error.message}"
    say(what + (" (-v shows the traceback)" if error.traceback and not shown.verbose else ""))
    if shown.verbose and error.traceback:
        write(sys.stderr, clean(error.traceback, lines=True).rstrip() + "\n")
    return NO_VERDICT


def _write_event(event: Event, files: dict[str, OutputFile], shown: Shown) -> None:
    from stabcheck.renderers.formats import EVENTS
    from stabcheck.renderers.json_lines import line

    if file := files.get(f"-o {EVENTS}"):
        file.write(line(event))
    if shown.on_stdout == EVENTS:
        write(sys.stdout, line(event), utf8=True)


def _write_reports(report: Report, files: dict[str, OutputFile], shown: Shown) -> None:
    from stabcheck.catalog import everything
    from stabcheck.renderers.formats import EVENTS, FORMATS, render

    for name in FORMATS:
        file = files.get(f"-o {name}")
        if name == EVENTS or (file is None and shown.on_stdout != name):
            continue
        text = render(name, report, catalog=everything(), base=os.getcwd())
        if file is not None:
            file.write(text)
        else:
            write(sys.stdout, text, utf8=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        _tell_github(report, shown)


def _tell_github(report: Report, shown: Shown) -> None:
    """Annotations in the job's log, unless they are there already, and the summary on the job's page."""
    from stabcheck.catalog import everything
    from stabcheck.renderers import github, markdown

    base = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
    if shown.on_stdout != "github":
        # Either stream is read for annotations, and standard output may belong to a format.
        write(sys.stderr, github.render(report, catalog=everything(), base=base))
    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(page, "ab") as file:
                file.write(to_bytes(markdown.render(report, catalog=everything(), base=base)))
        except OSError as error:
            say(f"GITHUB_STEP_SUMMARY {page}: cannot be written ({error.strerror})")


def _say_partial(results: Sequence[CheckResult], checks: int, *, are_written: bool) -> None:
    """What is known when the run is interrupted."""
    report = "the report has these, the others as not run" if are_written else "no report was written"
    say(f"interrupted after {len(results)} of {checks} checks; {report}")
    for result in results:
        summary = result.error.message if result.error else result.skip_reason or result.summary
        write(sys.stderr, clean(f"  {STATUS_WORDS[result.status]:5}  {result.id}: {summary}") + "\n")


def say(message: str) -> None:
    """One line on standard error."""
    write(sys.stderr, f"stabcheck: {clean(message)}\n")
