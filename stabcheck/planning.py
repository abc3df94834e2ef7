"""From the command line and the configuration file to the runs that are to be done."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stabcheck import config as configuration
from stabcheck.catalog import RETIRED, everything
from stabcheck.config import Config
from stabcheck.earlier import known
from stabcheck.options import Options
from stabcheck.renderers.formats import DOCUMENTS
from stabcheck.setup import nearest
from stabcheck.targets import TargetError, find
from stabcheck.userland import UsageError

PLAIN = ("seed", "steps", "device", "budget", "load_timeout", "check_timeout")
"""Options whose value in the file counts unless the command line gives one."""


@dataclass(frozen=True)
class Given:
    """What the command line says. `said` names the options that were really there; the others hold defaults."""

    arguments: Mapping[str, str] = field(default_factory=dict)
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    seed: int = Options.seed
    steps: int = Options.steps
    budget: float = Options.budget
    load_timeout: float = Options.load_timeout
    check_timeout: float = Options.check_timeout
    device: str | None = None
    in_process: bool = False
    baseline: Path | None = None
    strict: bool = False
    verbose: bool = False
    formats: Mapping[str, Path | None] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Plan:
    """One run."""

    name: str
    """Of the target in the file; "" for the file's own, or one that was spelt out."""
    file: Path | None
    """The configuration file."""
    passed_over: Path | None
    """Another one beside it, which does not hold."""
    target: str
    options: Options
    strict: bool
    formats: Mapping[str, Path | None]

    @property
    def written(self) -> str:
        """The target as it stands in the file or on the command line."""
        return self.options.shown_as or self.target

    @property
    def called(self) -> str:
        """What tells it from others."""
        return self.name or self.written

    @property
    def note(self) -> str:
        """What is to be said about the file; empty if nothing is."""
        return f"{self.file} holds, {self.passed_over.name} beside it does not" if self.passed_over else ""


def plans(target: str | None, given: Given, file: Path | None = None, *, every: bool = False) -> list[Plan]:
    """The runs to do: of `target`, or of `every` target in the configuration file, its own first.

    Raises:
        UsageError: the file or an option means nothing, or two runs would write the same file.
    """
    config = configuration.find(Path.cwd(), file)
    configuration.check(config, everything(), RETIRED)
    if every and target is not None:
        raise UsageError("--all runs every target of the configuration file: leave TARGET out")
    targets = [None, *config.targets()] if config.settings.target else config.targets()
    if every and not targets:
        said = f"{config.file} has none" if config.file else "there is no configuration file"
        raise UsageError(f"--all runs every target of the configuration file, and {said}")
    found = [_plan(name, config, given) for name in (targets if every else [target])]
    taken: dict[Path, str] = {}
    for plan in found:
        for format, path in plan.formats.items():
            if path is None and len(found) > 1 and format in DOCUMENTS:
                raise UsageError(
                    f"--all: {len(found)} reports after each other are no {format}: use -o {format}=PATH with {{name}} in it"
                )
            if path is not None and taken.setdefault(path, plan.called) != plan.called:
                raise UsageError(
                    f"{path}: both {taken[path]} and {plan.called} would be written there; use {{name}} in the path"
                )
    return found


def _plan(target: str | None, config: Config, given: Given) -> Plan:
    settings = config.of(target)
    name = target if target in config.targets() else ""
    values: dict[str, Any] = {
        key: getattr(given, key) if key in given.said or (value := getattr(settings, key)) is None else value
        for key in PLAIN
    }
    baseline = given.baseline or (Path(settings.baseline) if settings.baseline else None)
    options = Options(
        select=given.select or tuple(settings.select),
        ignore=given.ignore,
        arguments={**{key: str(value) for key, value in settings.arguments.items()}, **given.arguments},
        **values,
        in_process=given.in_process,
        severities=settings.severity,
        thresholds=settings.thresholds,
        suppressions=(*configuration.suppressions(config, settings), *known(baseline)),
        verbose=given.verbose,
        shown_as=written if (written := config.written(target)) != settings.target else "",
        configuration=os.path.relpath(config.file) if config.file else None,
    )
    formats = {key: None if path == "-" else Path(path) for key, path in settings.output.items()} | dict(given.formats)
    if sum(path is None for path in formats.values()) > 1:
        raise UsageError("only one format can go to standard output: give the others a file")
    named = {key: path and Path(str(path).replace("{name}", name or "default")) for key, path in formats.items()}
    strict = given.strict or bool(settings.strict)
    return Plan(name, config.file, config.passed_over, settings.target or "", options, strict, named)


def all_plans(target: str | None, file: Path | None = None, *, every: bool = False) -> tuple[list[Plan], str]:
    """What the configuration file makes of `target`, or of every target where none is the default; and a comment that
    lists the targets that it names.

    Raises:
        UsageError: as for `plans`.
    """
    config = configuration.find(Path.cwd(), file)
    every = every or (target is None and config.settings.target is None and bool(config.targets()))
    own = {name: one.target or config.settings.target for name, one in config.settings.targets.items()}
    said = f"# targets: {', '.join(f'{name} ({target})' for name, target in own.items())}\n" if own else ""
    return plans(target, Given(), file, every=every), said


DEVICES = ("cpu", "cuda", "mps", "xpu", "xla", "hpu", "mtia", "npu", "meta", "ipu", "maia", "privateuseone")
"""Kinds of device that torch has names for."""


def doubts(plan: Plan) -> Iterator[str]:
    """What in a plan cannot do what it says, as far as can be known without torch and the user's code."""
    today = plan.options.today
    for one in plan.options.suppressions:
        if one.expired(today):
            yield f"ignore {one.code}: ran out on {one.until}, so it suppresses nothing any more ({one.reason})"
    try:
        find(plan.target)
    except TargetError as error:
        yield f"target: {error}"
    kind, colon, number = (plan.options.device or "cpu").partition(":")
    if kind not in DEVICES or (colon and not number.isdigit()):
        yield f"device {plan.options.device!r}: torch knows none of this name{nearest(kind, DEVICES)}"


def to_toml(plan: Plan) -> str:
    """The plan as a table of TOML, with the file in a comment."""
    options = plan.options
    lines = [f"# {plan.note or plan.file or 'no configuration file: all defaults'}"]
    lines.append(f"[targets.{json.dumps(plan.name)}]" if plan.name else "[tool.stabcheck]")
    values: dict[str, Any] = {
        "target": plan.written,
        "arguments": dict(options.arguments),
        "select": list(options.select),
    }
    values |= {key.replace("_", "-"): getattr(options, key) for key in PLAIN}
    values |= {"strict": plan.strict, "severity": dict(options.severities), "thresholds": dict(options.thresholds)}
    values["output"] = {name: str(path or "-") for name, path in plan.formats.items()}
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value not in (None, {}, [])]
    lines += [f"ignore = [{', '.join(_accepted(options))}]"] if options.suppressions else []
    return "\n".join(lines) + "\n"


def _accepted(options: Options) -> Iterator[str]:
    for one in options.suppressions:
        fields = {key: value for key, value in dataclasses.asdict(one).items() if key in {"code", "reason", "location"}}
        text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items() if value is not None)
        yield f"{{{text}{f', until = {one.until}' if one.until else ''}}}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(str(key))} = {_toml(item)}' for key, item in value.items())}}}"
    return json.dumps(value)
