"""The options of the command line, with their help texts and completions. Help is in ASCII: it is for every terminal."""

from __future__ import annotations

import ast
import glob
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stabcheck.options import Options
from stabcheck.renderers.formats import FORMATS

DEFAULTS = Options()
_LOOK, _WHAT, _LIMITS, _FILES = "What you see", "What is checked", "Limits", "Files to write"


class Color(StrEnum):
    """When to use colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def complete_check(incomplete: str) -> list[tuple[str, str]]:
    """Ids of checks and what can be wrong; after a comma, the next one of a list."""
    from stabcheck.catalog import everything

    before, comma, word = incomplete.rpartition(",")
    return [(f"{before}{comma}{check.id}", check.title) for check in everything() if check.id.startswith(word)]


def complete_topic(incomplete: str) -> list[tuple[str, str]]:
    """Ids of checks, and codes of rules once one is begun."""
    from stabcheck.catalog import everything

    rules = [(rule.code, rule.name) for check in everything() for rule in check.rules]
    return complete_check(incomplete) + [
        rule for rule in rules if incomplete and rule[0].startswith(incomplete.upper())
    ]


def complete_target(incomplete: str) -> list[str]:
    """Python files and folders, and after the colon the functions of the file."""
    where, colon, begun = incomplete.partition(":")
    if colon:
        return [f"{where}:{name}" for name in _functions(Path(where)) if name.startswith(begun)]
    folder, _, begun = where.rpartition("/")
    found = sorted(Path(f"{folder}/" if folder or where[:1] == "/" else ".").glob(f"{glob.escape(begun)}*"))
    prefix = where[: len(where) - len(begun)]
    files = [f"{prefix}{path.name}:" for path in found if path.suffix == ".py"]
    return files + [
        f"{prefix}{path.name}/" for path in found if path.is_dir() and not path.name.startswith((".", "__"))
    ]


def _functions(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def complete_output(incomplete: str) -> list[str]:
    """Names of formats."""
    return [name for name in FORMATS if name.startswith(incomplete)]


def split(words: Iterable[str] | None) -> tuple[str, ...]:
    """The words of a repeated and comma-separated option."""
    return tuple(word.strip() for item in words or () for word in item.split(",") if word.strip())


Target = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        help="The function that builds the set-up: path/to/file.py:function or package.module:function, or a target named "
        "in the configuration file.",
        autocompletion=complete_target,
    ),
]
Topic = Annotated[
    str,
    typer.Argument(metavar="CODE|ID", help="A rule (SC0701), a check (dying-relu).", autocompletion=complete_topic),
]
RecordingFile = Annotated[Path, typer.Argument(metavar="RECORDING", help="A file that --save-recording wrote.")]
Script = Annotated[
    Path | None,
    typer.Argument(metavar="SCRIPT", help="Your training script; without it, the file is a template to fill in."),
]
OldReport = Annotated[Path, typer.Argument(metavar="OLD", help="A report that --json wrote, before the change.")]
NewReport = Annotated[Path, typer.Argument(metavar="NEW", help="One after it.")]
AllMoved = Annotated[bool, typer.Option("--verbose", "-v", help="Every measurement that moved.", rich_help_panel=_LOOK)]
Arg = Annotated[
    list[str] | None,
    typer.Option(
        "--arg", metavar="NAME=VALUE", help="An argument of the function. Can be given again.", rich_help_panel=_WHAT
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="CHECKS",
        help="Only these: ids of checks, codes of rules or their beginnings (SC07), with commas or given again.",
        autocompletion=complete_check,
        rich_help_panel=_WHAT,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="CHECKS",
        help="Not these; written like --select, and stronger.",
        autocompletion=complete_check,
        rich_help_panel=_WHAT,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of all random numbers.", rich_help_panel=_WHAT)]
Steps = Annotated[int, typer.Option(metavar="N", help="Training steps of the trial.", rich_help_panel=_WHAT)]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Where to run: cpu, cuda:1. If not given, where the set-up puts its model.",
        rich_help_panel=_WHAT,
    ),
]
InProcess = Annotated[
    bool,
    typer.Option(
        "--in-process", help="Run the target in this process, for a debugger; no time limits.", rich_help_panel=_WHAT
    ),
]
Budget = Annotated[
    float, typer.Option(metavar="SECONDS", help="For the trial and all checks together.", rich_help_panel=_LIMITS)
]
LoadTimeout = Annotated[
    float, typer.Option(metavar="SECONDS", help="For importing TARGET and calling it.", rich_help_panel=_LIMITS)
]
CheckTimeout = Annotated[float, typer.Option(metavar="SECONDS", help="For one check.", rich_help_panel=_LIMITS)]
All = Annotated[
    bool,
    typer.Option(
        "--all", help="Every target of the configuration file: its own and those that it names.", rich_help_panel=_WHAT
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        help="The configuration file, instead of the nearest pyproject.toml or stabcheck.toml.",
        rich_help_panel=_WHAT,
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="A report in JSON: what it has found already is not counted, only what is new.",
        rich_help_panel=_WHAT,
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="PATH",
        help="The same as -o json=PATH.",
        rich_help_panel=_FILES,
    ),
]
Output = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT=PATH",
        help=f"The report as {', '.join(FORMATS)}. Can be given again; PATH '-' is standard output.",
        autocompletion=complete_output,
        rich_help_panel=_FILES,
    ),
]
OutputFormat = Annotated[
    str | None,
    typer.Option(
        "--output-format",
        metavar="FORMAT",
        help="The same as -o FORMAT=-: nothing else is on standard output.",
        autocompletion=complete_output,
        rich_help_panel=_FILES,
    ),
]
SaveRecording = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="What was observed, to be judged again by 'diagnose'.", rich_help_panel=_FILES),
]
LogGradients = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Gradient norm of every parameter at every step (.csv or .jsonl).", rich_help_panel=_FILES
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit with 1 for warnings too, with 2 for what did not fit --budget.",
        rich_help_panel=_LOOK,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict, on one line.", rich_help_panel=_LOOK)]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="All findings, evidence and pictures, whole tracebacks, and what the target prints.",
        rich_help_panel=_LOOK,
    ),
]
ColorOption = Annotated[
    Color, typer.Option("--color", help="Colour; NO_COLOR and FORCE_COLOR are obeyed.", rich_help_panel=_LOOK)
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
