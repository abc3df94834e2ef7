"""The command line. It parses, prints and picks the exit code; with `publishing` and `console` it is the only part that
writes, and alone the one that exits.

Exit codes: 0 no check failed, 1 a check failed (`--strict`: or warned), 2 it cannot be said (`--strict`: or not of every
check in the time), 130 interrupted.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stabcheck import arguments as given
from stabcheck.console import Look, OutputError, write
from stabcheck.interrupts import Terminated, stoppable
from stabcheck.publishing import (
    NO_VERDICT,
    Shown,
    formats,
    listen,
    outputs,
    publish,
    require,
    say,
    say_not_loaded,
    write_recorded,
)
from stabcheck.selection import UsageError
from stabcheck.version import __version__

app = typer.Typer(
    name="stabcheck",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130


def _show_version(wanted: bool) -> None:
    if wanted:
        write(sys.stdout, f"stabcheck {__version__}\n")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 no check failed, 1 a check failed, 2 no verdict, 130 interrupted.")
def _stabcheck(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Pre-flight checks for PyTorch training: find what would waste the run before it starts."""


@app.command()
def run(
    context: typer.Context,
    target: given.Target = None,
    every: given.All = False,
    arg: given.Arg = None,
    select: given.Select = None,
    ignore: given.Ignore = None,
    seed: given.Seed = given.DEFAULTS.seed,
    steps: given.Steps = given.DEFAULTS.steps,
    device: given.Device = None,
    in_process: given.InProcess = False,
    budget: given.Budget = given.DEFAULTS.budget,
    load_timeout: given.LoadTimeout = given.DEFAULTS.load_timeout,
    check_timeout: given.CheckTimeout = given.DEFAULTS.check_timeout,
    baseline: given.Baseline = None,
    config: given.ConfigFile = None,
    output: given.Output = None,
    output_format: given.OutputFormat = None,
    json: given.Json = None,
    save_recording: given.SaveRecording = None,
    log_gradients: given.LogGradients = None,
    strict: given.Strict = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    color: given.ColorOption = given.Color.AUTO,
) -> int:
    """Check the training set-up that TARGET builds; it takes about a minute.

    TARGET names a function that builds everything and returns it as a dict.
    The dict has at least 'model' and 'train_loader'; more keys, more checks.
    What is not given here is taken from the configuration file.
    """
    from stabcheck.planning import Given, plans

    said = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    words = Given(
        arguments=_named(arg or ()), select=given.split(select), ignore=given.split(ignore), seed=seed, steps=steps,
        budget=budget, load_timeout=load_timeout, check_timeout=check_timeout, device=device, in_process=in_process,
        baseline=baseline, strict=strict, verbose=verbose, formats=formats(output, output_format, json), said=said,
    )  # fmt: skip
    todo = plans(target, words, config, every=every)
    if len(todo) > 1 and (save_recording or log_gradients):
        raise UsageError("--save-recording and --log-gradients name one file: run one target at a time")
    require(*(plan.formats for plan in todo))
    if todo[0].note and not quiet:
        say(todo[0].note)
    codes = []
    for plan in todo:
        name = plan.called if len(todo) > 1 else plan.name
        shown = Shown(plan.formats, quiet, verbose, plan.strict, color, name)
        read = [Path(plan.target.rpartition(":")[0])] + ([plan.file] if plan.file else [])
        with outputs(plan.formats, log_gradients, save_recording, read=read, quiet=quiet) as files:
            report, loaded = listen(plan.target, plan.options, shown, files)
            is_broken = not loaded and all(check.error is not None for check in report.checks)
            codes.append((say_not_loaded if is_broken else publish)(report, files, shown))
    return max(codes)


@app.command("show-config")
def show_config(target: given.Target = None, every: given.All = False, config: given.ConfigFile = None) -> None:
    """Show what the configuration file makes of a run, where it is and which targets it names."""
    from stabcheck.planning import all_plans, doubts, to_toml

    found, targets = all_plans(target, config, every=every)
    write(sys.stdout, targets + "\n".join(map(to_toml, found)), utf8=True)
    for doubt in dict.fromkeys(doubt for plan in found for doubt in doubts(plan)):
        say(doubt)


@app.command()
def diagnose(
    recording: given.RecordingFile,
    select: given.Select = None,
    ignore: given.Ignore = None,
    baseline: given.Baseline = None,
    output: given.Output = None,
    output_format: given.OutputFormat = None,
    json: given.Json = None,
    log_gradients: given.LogGradients = None,
    strict: given.Strict = False,
    quiet: given.Quiet = False,
    verbose: given.Verbose = False,
    color: given.ColorOption = given.Color.AUTO,
) -> int:
    """Judge a recording again, without model, data or torch."""
    from stabcheck.earlier import known
    from stabcheck.engine import diagnose as judge
    from stabcheck.options import Options
    from stabcheck.recording import from_json

    try:
        observed = from_json(recording.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{recording}: {getattr(error, 'strerror', None) or error}") from error
    wanted = formats(output, output_format, json, events=False)
    require(wanted)
    with outputs(wanted, log_gradients, read=[recording], quiet=quiet) as files:
        report = judge(observed, Options(given.split(select), given.split(ignore), suppressions=known(baseline)))
        write_recorded(files, observed)
        return publish(report, files, Shown(wanted, quiet, verbose, strict, color))


@app.command(epilog="Exit codes: 0 the new file runs, 1 it does not yet, 2 nothing was written.")
def init(script: given.Script = None, color: given.ColorOption = given.Color.AUTO) -> int:
    """Begin an entry-point file, stabcheck_setup.py, from a training script.

    SCRIPT is read, never imported. What can be found in it is wired in: model,
    loaders, loss, optimizer, schedule, number of epochs, and functions of yours
    that validate, save or load. What is not found is a marked gap in the file.
    Then the file is tried for a few steps. No file is ever overwritten.
    """
    from stabcheck.beginning import begin

    return begin(script, Look.of(sys.stdout, color))


@app.command(
    epilog="Exit codes: 0 nothing is worse, 1 a finding appeared or a check newly warns, fails or cannot run, 2 no verdict."
)
def diff(
    old: given.OldReport,
    new: given.NewReport,
    json: given.AsJson = False,
    quiet: given.Quiet = False,
    verbose: given.AllMoved = False,
    color: given.ColorOption = given.Color.AUTO,
) -> int:
    """Say what is different between two reports in JSON.

    Which findings appeared and which went, which checks changed.
    And what was measured: it is told when it moved by more than another seed
    would move it: loss at the start, gradient norms, silent units, largest
    stable rate, and time when it more than doubled. That alone is not worse.
    """
    from stabcheck.earlier import read_report
    from stabcheck.publishing import publish_comparison

    reports = read_report(old, "OLD"), read_report(new, "NEW")
    look = Look.of(sys.stdout, color)
    return publish_comparison(*reports, (str(old), str(new)), look, as_json=json, quiet=quiet, verbose=verbose)


@app.command("list")
def list_checks(json: given.AsJson = False, color: given.ColorOption = given.Color.AUTO) -> None:
    """Show all checks."""
    from stabcheck.catalog import everything
    from stabcheck.renderers import docs

    if json:
        write(sys.stdout, docs.to_json(everything()) + "\n", utf8=True)
    else:
        write(sys.stdout, docs.render_list(everything(), **Look.of(sys.stdout, color).options()))


@app.command()
def explain(topic: given.Topic, color: given.ColorOption = given.Color.AUTO) -> None:
    """Say what a check looks at, why it matters and what to do."""
    from stabcheck import thresholds
    from stabcheck.catalog import RETIRED, everything
    from stabcheck.renderers import docs
    from stabcheck.selection import choose

    chosen = choose(everything(), (topic,), retired=RETIRED)
    look = Look.of(sys.stdout, color).options()
    pages = [
        docs.render_check(
            check,
            [rule for rule in check.rules if chosen.reports(rule.code)],
            {name: (value, thresholds.meanings(check)[name]) for name, value in thresholds.of(check).items()},
            **look,
        )
        for check in chosen.checks
    ]
    write(sys.stdout, "\n".join(pages))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the report."""
    from json import dumps

    from stabcheck.report import Report

    write(sys.stdout, dumps(Report.model_json_schema(mode="serialization"), indent=2) + "\n", utf8=True)


def _named(pairs: Sequence[str]) -> dict[str, str]:
    """The `--arg` options by name."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--arg {pair}: write --arg NAME=VALUE")
        if name in found:
            raise UsageError(f"--arg {name} is given twice")
        found[name] = value
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. `argv` is without the program's name."""
    words = sys.argv[1:] if argv is None else list(argv)
    verbose = any(re.fullmatch(r"-[a-z]*v[a-z]*|--verbose", word) for word in words)
    try:
        with stoppable():
            code = app(words, prog_name="stabcheck", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated as stopped:
        return 128 + stopped.number
    except (UsageError, OutputError) as error:
        caught: Exception = error
        say(str(error))
    except Exception as error:
        caught = error
        # Typer's errors have had several homes; what they share is a message made for the user.
        message = getattr(error, "format_message", None)
        if message is None:
            say(
                f"this is a fault of stabcheck, please report it with the output of -v: {type(error).__name__}: {error}"
            )
        elif type(error).__name__ == "NoArgsIsHelpError":
            write(sys.stderr, message() + "\n")
            return NO_VERDICT
        else:
            say(f"{message().rstrip('.')}; see stabcheck --help")
    if verbose:
        write(sys.stderr, "".join(traceback.format_exception(caught)))
    return NO_VERDICT
