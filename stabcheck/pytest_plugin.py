"""The plugin for pytest: `pytest --stabcheck train.py:setup` runs each check as a test, and `assert_healthy` one set-up in a test.

Loading it imports neither torch nor anything of stabcheck's that is heavy: pytest loads it in every project that has
stabcheck installed.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stabcheck.planning import Plan
    from stabcheck.report import CheckResult, Report
    from stabcheck.supervisor import Host

WIDTH = 100


class StabcheckWarning(UserWarning):
    """A check that warned."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--stabcheck TARGET`."""
    group = parser.getgroup("stabcheck")
    group.addoption(
        "--stabcheck",
        action="append",
        default=[],
        metavar="TARGET",
        help="run the checks of stabcheck on this set-up, one test item each (path/to/file.py:function, or a target "
        "named in the configuration file); can be given again",
    )
    group.addoption(
        "--stabcheck-select",
        action="append",
        default=[],
        metavar="CHECKS",
        help="only these checks or rules, with commas",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the items of every `--stabcheck`."""
    targets: list[str] = config.getoption("--stabcheck")
    if not targets:
        return
    from stabcheck.catalog import RETIRED, everything
    from stabcheck.selection import UsageError, choose

    select = tuple(word for words in config.getoption("--stabcheck-select") for word in words.split(",") if word)
    try:
        for target in targets:
            run = _Run(target, select)
            chosen = choose(everything(), run.plan.options.select, run.plan.options.ignore, RETIRED)
            items += [
                CheckItem.from_parent(session, name=f"{target}[{check.id}]", run=run, id=check.id)
                for check in chosen.checks
            ]
    except UsageError as error:
        raise pytest.UsageError(f"--stabcheck: {error}") from None


@pytest.fixture(scope="session")
def stabcheck_run() -> Iterator[Callable[..., Report]]:
    """`stabcheck_run(target, select=..., **options)` -> the Report; a session of tests imports torch for it only once."""
    host: list[Host] = []

    def run(target: str | Callable[..., Any], **options: Any) -> Report:
        from stabcheck.supervisor import Host

        if not host and os.name == "posix":
            host.append(Host())
        return _report(target, options, host[0] if host else None)

    yield run
    for one in host:
        one.close()


def assert_healthy(
    setup: str | Callable[..., Any], select: Iterable[str] = (), *, strict: bool = False, **options: Any
) -> Report:
    """Run the checks on an entry function, or a TARGET as on the command line; further options are those of `stabcheck.Options`.

    Raises:
        AssertionError: a check failed (`strict`: or warned), or could not run; the message is the report.
        ValueError: the function cannot be found again by another process, as one defined inside another function.
    """
    __tracebackhide__ = True
    from stabcheck.report import exit_code

    report = _report(setup, {"select": tuple(select), **options})
    if exit_code(report, strict=strict):
        raise AssertionError(f"the set-up is not healthy\n\n{_shown(report)}")
    return report


class CheckItem(pytest.Item):
    """One check on one set-up."""

    def __init__(self, *, run: _Run, id: str, **rest: Any) -> None:
        super().__init__(**rest)
        self._run, self._check = run, id

    def runtest(self) -> None:
        """Look up what the check said; the first item of a target runs them all."""
        report = self._run.report()
        check = next(check for check in report.checks if check.id == self._check)
        if check.status == "skip":
            pytest.skip(check.skip_reason or check.summary)
        if check.status == "warn" and not self._run.plan.strict:
            warnings.warn(StabcheckWarning(f"{check.id}: {check.summary}"), stacklevel=1)
        elif check.status != "pass":
            raise CheckFailed(_shown(_alone(report, check)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """The findings, without a traceback of ours."""
        if isinstance(excinfo.value, CheckFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args, **kwargs)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """For the heading of a failure."""
        return Path(self._run.target.rpartition(":")[0]), None, self.name


class CheckFailed(Exception):  # noqa: N818 - it is a verdict, no error
    """What a check found."""


class _Run:
    """All checks on one set-up, run when the first of its items is."""

    def __init__(self, target: str, select: tuple[str, ...]) -> None:
        from stabcheck.planning import Given, plans

        (self.plan,) = plans(target, Given(select=select))
        self.target = target
        self._report: Report | None = None

    plan: Plan

    def report(self) -> Report:
        if self._report is None:
            from stabcheck import engine

            self._report = engine.run(self.plan.target, self.plan.options)
        return self._report


def _report(setup: str | Callable[..., Any], options: dict[str, Any], host: Host | None = None) -> Report:
    from stabcheck import engine

    target = setup if isinstance(setup, str) else _target(setup)
    return engine.run(target, engine.Options(**options), host=host)


def _target(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", "")
    if not name.isidentifier() or name == "<lambda>":
        raise ValueError(
            f"{name or function!r}: give a function at the top level of a file, for a process of its own runs it"
        )
    return f"{inspect.getsourcefile(function)}:{name}"


def _alone(report: Report, check: CheckResult) -> Report:
    from stabcheck.report import overall

    return report.model_copy(update={"checks": (check,), "not_checked": (), "status": overall([check])})


def _shown(report: Report) -> str:
    from stabcheck.catalog import everything
    from stabcheck.renderers.terminal import render

    return render(report, width=WIDTH, catalog=everything(), base=os.getcwd())
