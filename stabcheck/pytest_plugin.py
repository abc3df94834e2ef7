"""The plugin for pytest: `pytest --stabcheck train.py:setup` runs each check as a test, and `assert_healthy` one set-up in a test.

Loading it imports neither torch nor anything of stabcheck's that is heavy: pytest loads it in every project that has
stabcheck installed.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ReprEntryNative, ReprExceptionInfo, ReprFileLocation, ReprTraceback

if TYPE_CHECKING:
    from stabcheck.check import Check
    from stabcheck.planning import Plan
    from stabcheck.report import CheckResult, Report
    from stabcheck.supervisor import Host

WIDTH = 100

_TARGETS = pytest.StashKey["list[_Target]"]()


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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Look at every `--stabcheck` before anything is collected: a mistyped one is one usage error."""
    words: list[str] = session.config.getoption("--stabcheck")
    session.config.stash[_TARGETS] = []
    if not words:
        return
    from stabcheck.selection import UsageError
    from stabcheck.targets import TargetError

    select = tuple(
        word for words in session.config.getoption("--stabcheck-select") for word in words.split(",") if word
    )
    try:
        session.config.stash[_TARGETS] = [_Target(word, select) for word in dict.fromkeys(words)]
    except (UsageError, TargetError) as error:
        raise pytest.UsageError(f"--stabcheck: {error}") from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SetupFile | None:
    """The file of a target has the items of it, so that they can be chosen and found again like any other test."""
    targets = [target for target in parent.config.stash[_TARGETS] if target.file == file_path]
    return SetupFile.from_parent(parent, path=file_path, targets=targets) if targets else None


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """A training script that is named for the items in it is not to be imported for tests of its own."""
    is_test = any(module_path.match(pattern) for pattern in parent.config.getini("python_files"))
    if is_test or all(target.file != module_path for target in parent.config.stash[_TARGETS]):
        return None
    return _Unread.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the items of the targets whose files are not among those that were collected."""
    for target in config.stash[_TARGETS]:
        if not target.collected:
            file = target.file or config.invocation_params.dir / target.where
            # Of a module that is not below the current directory the name is all that is known.
            node = None if target.file else target.where
            items += SetupFile.from_parent(session, path=file, nodeid=node, targets=[target]).collect()


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
    setup: str | Callable[..., Any], select: str | Iterable[str] = (), *, strict: bool = False, **options: Any
) -> Report:
    """Run the checks on an entry function, or a TARGET as on the command line; further options are those of `stabcheck.Options`.

    Raises:
        AssertionError: a check failed (`strict`: or warned), or could not run; the message is what was found.
        ValueError: an option cannot be meant, or the function cannot be found again by another process, as one defined
            inside another function.
    """
    __tracebackhide__ = True
    from stabcheck.report import exit_code

    report = _report(setup, {"select": select, **options})
    if exit_code(report, strict=strict):
        raise AssertionError(f"{_headline(report)}\n\n{_shown(report)}")
    return report


class SetupFile(pytest.File):
    """A file with entry functions that `--stabcheck` names."""

    def __init__(self, *, targets: list[_Target], **rest: Any) -> None:
        super().__init__(**rest)
        self._targets = targets

    def collect(self) -> list[CheckItem]:
        """One item for each check on each target."""
        for target in self._targets:
            target.collected = True
        return [CheckItem.of(self, target, check.id) for target in self._targets for check in target.checks]


class _Unread(pytest.Module):
    """A module without tests."""

    def collect(self) -> list[pytest.Item]:
        return []


class CheckItem(pytest.Item):
    """One check on one set-up."""

    def __init__(self, *, target: _Target, check: str, **rest: Any) -> None:
        super().__init__(**rest)
        self._target, self._check = target, check

    @classmethod
    def of(cls, parent: SetupFile, target: _Target, check: str) -> CheckItem:
        """The item. Its whole node id is spelt out, as pytest reads it again for `--lf`: the check as a parameter."""
        name = f"{target.function}[{check}]"
        made: CheckItem = cls.from_parent(
            parent, name=name, nodeid=f"{parent.nodeid}::{name}", target=target, check=check
        )
        return made

    def runtest(self) -> None:
        """Look up what the check said; the first item of a target runs them all."""
        report = self._target.report()
        check = next(check for check in report.checks if check.id == self._check)
        if check.status == "skip":
            pytest.skip(check.skip_reason or check.summary)
        if self._target.is_told(check):
            pytest.skip("nothing could be checked: the first item of this set-up says why")
        if check.status == "warn" and not self._target.plan.strict:
            warnings.warn(StabcheckWarning(f"{check.id}: {check.summary}"), stacklevel=1)
        elif check.status != "pass":
            raise CheckFailed(_alone(report, check))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """The findings, without a traceback of ours, and the first of them for the summary line."""
        if not isinstance(excinfo.value, CheckFailed):
            return super().repr_failure(excinfo, *args, **kwargs)
        report = excinfo.value.report
        found = next((finding for check in report.checks for finding in check.findings if finding.source), None)
        place = (found.source.file, found.source.line) if found and found.source else (str(self.path), 0)
        text = ReprTraceback([ReprEntryNative([_shown(report)])], None, style="native")
        return ReprExceptionInfo(reprtraceback=text, reprcrash=ReprFileLocation(*place, _headline(report)))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """For the heading of a failure."""
        return self.path, None, self.name


class CheckFailed(Exception):  # noqa: N818 - it is a verdict, no error
    """What a check found."""

    def __init__(self, report: Report) -> None:
        super().__init__(_headline(report))
        self.report = report


class _Target:
    """A `--stabcheck`: all checks on one set-up, run when the first of its items is.

    Raises:
        UsageError: there is no such check, or the configuration file cannot be meant.
        TargetError: there is no such file or function.
    """

    def __init__(self, word: str, select: tuple[str, ...]) -> None:
        from stabcheck.catalog import RETIRED, everything
        from stabcheck.planning import Given, plans
        from stabcheck.selection import choose
        from stabcheck.targets import find

        (self.plan,) = plans(word, Given(select=select))
        self.file = find(self.plan.target)
        self.where, _, self.function = self.plan.target.rpartition(":")
        options = self.plan.options
        self.checks: tuple[Check, ...] = choose(everything(), options.select, options.ignore, RETIRED).checks
        self.collected = False
        """Whether its items are among the tests by now."""
        self._report: Report | None = None
        self._told: str | None = None

    plan: Plan

    def report(self) -> Report:
        """What all checks say."""
        if self._report is None:
            from stabcheck import engine

            self._report = engine.run(self.plan.target, self.plan.options)
        return self._report

    def is_told(self, check: CheckResult) -> bool:
        """Whether an item before this one has told why no check at all could run."""
        errors = {one.error for one in self.report().checks}
        if check.error is None or len(errors) > 1:
            return False
        self._told = self._told or check.id
        return self._told != check.id


def _report(setup: str | Callable[..., Any], options: dict[str, Any], host: Host | None = None) -> Report:
    from stabcheck import engine
    from stabcheck.selection import UsageError
    from stabcheck.setup import nearest

    known = [field.name for field in dataclasses.fields(engine.Options)]
    for name in options:
        if name not in known:
            raise UsageError(f"no option {name!r}{nearest(name, known)}; the options are {', '.join(known)}")
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


def _headline(report: Report) -> str:
    """The first thing that is wrong, on one line."""
    from stabcheck.renderers.findings import causes

    broken = next((check.error for check in report.checks if check.error is not None), None)
    if broken is not None:
        return f"{broken.stage}: {broken.message}"
    first = causes(report)[0].findings[0]
    return f"{first.code}: {first.message}"


def _shown(report: Report) -> str:
    from stabcheck.catalog import everything
    from stabcheck.renderers.terminal import problems

    return problems(report, everything(), width=WIDTH, base=os.getcwd())
