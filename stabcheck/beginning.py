"""`stabcheck init`: write an entry-point file, try it, and say what is still missing."""

from __future__ import annotations

import sys
from pathlib import Path

from stabcheck.console import Look, to_bytes, write
from stabcheck.options import Options
from stabcheck.publishing import say
from stabcheck.selection import UsageError
from stabcheck.starter import script as scripts
from stabcheck.starter import writing

QUICK = Options(select=("SC02", "SC08"), steps=5, budget=60.0, load_timeout=120.0, check_timeout=30.0)
"""Enough to see that everything is built and trains; what is wrong with it is for `stabcheck run` to say."""


def begin(source: Path | None, look: Look) -> int:
    """Write the file for the script `source` (None: the template), try it and say so; the exit code: 0 it runs, or is
    a template; 1 it does not run yet.

    Raises:
        UsageError: the script cannot be read, or there is such a file already.
    """
    path = writing.beside(source)
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already and was left as it is: rename or remove it to begin anew")
    try:
        draft = writing.draft(scripts.read(source)) if source is not None else writing.template()
    except scripts.ScriptError as error:
        raise UsageError(str(error)) from None
    try:
        # "x": what another process has written meanwhile is not overwritten either.
        with path.open("xb") as file:
            file.write(to_bytes(draft.text))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    target = _target(path)
    if draft.can_run and Look.of(sys.stderr).moving:
        say(f"{path} is written; trying it for {QUICK.steps} steps, which takes some seconds")
    trouble = _trouble(target) if draft.can_run else []
    from stabcheck.renderers.begun import render

    write(sys.stdout, render(draft, str(path), target, trouble, tried=draft.can_run, **look.options()))
    return 0 if source is None or (draft.can_run and not trouble) else 1


def _target(path: Path) -> str:
    """How the file is named on the command line: as a module where it belongs to a package that begins here."""
    if (path.parent / "__init__.py").exists() and not path.is_absolute() and ".." not in path.parts:
        return ".".join(path.with_suffix("").parts) + ":setup"
    return f"{path}:setup"


def _trouble(target: str) -> list[str]:
    """What keeps the set-up from being built or trained, each cause once."""
    from stabcheck.engine import run

    report = run(target, QUICK)
    found = []
    for check in report.checks:
        if check.error is not None:
            stage = "" if check.error.stage == "TARGET" else f"{check.error.stage}: "
            found.append(f"{stage}{check.error.message}")
    if not found and not any(check.status in {"pass", "warn", "fail"} for check in report.checks):
        found = [check.skip_reason or check.summary for check in report.checks]
    return list(dict.fromkeys(found))
