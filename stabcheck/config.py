"""The configuration file: `[tool.stabcheck]` in pyproject.toml, or stabcheck.toml. What the command line says wins over it.

It is looked for in the current directory and those above it, up to the root of the repository; of two in one directory
stabcheck.toml holds. Paths in it are relative to the file.
"""

from __future__ import annotations

import datetime
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stabcheck import thresholds
from stabcheck.check import Check, Severity
from stabcheck.renderers.formats import FORMATS
from stabcheck.selection import choose
from stabcheck.setup import nearest
from stabcheck.suppressions import Suppression
from stabcheck.userland import UsageError

NAMES = ("stabcheck.toml", "pyproject.toml")
"""The earlier wins."""


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=_dashed)


class Ignored(_Table):
    """One accepted finding: always with a reason."""

    code: str
    reason: str = Field(min_length=1)
    location: str | None = None
    until: datetime.date | None = None


class Settings(_Table):
    """What can be set for a target. Everything may be left out."""

    target: str | None = None
    arguments: dict[str, str | bool | int | float] = {}
    select: list[str] = []
    ignore: list[Ignored] = []
    severity: dict[str, Severity] = {}
    thresholds: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)] | int]] = {}
    seed: int | None = Field(default=None, ge=0, lt=2**32)
    steps: int | None = Field(default=None, ge=1)
    device: str | None = None
    budget: Seconds | None = None
    load_timeout: Seconds | None = None
    check_timeout: Seconds | None = None
    strict: bool | None = None
    output: dict[str, str] = {}
    baseline: str | None = None


class Whole(Settings):
    """The whole file: settings for every target, and named targets with settings of their own."""

    targets: dict[str, Settings] = {}

    @field_validator("targets", mode="before")
    @classmethod
    def _spelt_short(cls, targets: Any) -> Any:
        """`name = "file.py:function"` is short for a table with a target and nothing else."""
        if not isinstance(targets, dict):
            return targets
        return {name: {"target": own} if isinstance(own, str) else own for name, own in targets.items()}


@dataclass(frozen=True)
class Config:
    """A configuration and the file that it was read from."""

    file: Path | None
    settings: Whole
    passed_over: Path | None = None
    """Another one in the same directory, which does not hold."""

    def targets(self) -> list[str]:
        """The names of the named targets."""
        return list(self.settings.targets)

    def of(self, target: str | None) -> Settings:
        """The settings for a named target, or for the one that `target` spells out (None: the file's own), with paths as
        seen from here.

        Raises:
            UsageError: there is no target.
        """
        named = self.settings.targets
        if target is not None and target in named:
            merged = _merged(self.settings, named[target])
        else:
            if target is None and self.settings.target is None:
                raise UsageError(_no_target(self))
            if target is not None and ":" not in target and named:
                raise UsageError(f"{target!r} is no target of {self.file}{nearest(target, list(named))}")
            merged = _merged(self.settings, Settings(target=target) if target else Settings())
        if merged.target is None:
            raise UsageError(f"{self.file}: targets.{target} has no 'target'")
        # What is spelt out on the command line is relative to the current directory already.
        return self._placed(merged, spelt=target is not None and target not in named)

    def written(self, target: str | None) -> str:
        """The target of the same argument as it stands in the file, or on the command line: the same in every checkout."""
        own = self.settings.targets.get(target or "")
        if own is None and target is not None:
            return target
        return (own.target if own else None) or self.settings.target or ""

    def _placed(self, settings: Settings, *, spelt: bool) -> Settings:
        folder = self.file.parent if self.file else Path()

        def seen(path: str) -> str:
            return path if path == "-" else str(folder / path)

        target = settings.target or ""
        where, colon, name = target.rpartition(":")
        if not spelt and where.endswith(".py"):
            target = f"{folder / where}{colon}{name}"
        return settings.model_copy(
            update={
                "target": target,
                "output": {name: seen(path) for name, path in settings.output.items()},
                "baseline": seen(settings.baseline) if settings.baseline else None,
            }
        )


def find(start: Path, explicit: Path | None = None) -> Config:
    """The configuration that holds in the directory `start`, or that in the file `explicit`; an empty one if there is none.

    Raises:
        UsageError: a file cannot be read, or holds what means nothing; the message names file and key.
    """
    if explicit is not None:
        return _read(explicit, required=True) or Config(explicit, Whole())
    for folder in (start, *start.parents):
        files = [folder / name for name in NAMES if (folder / name).is_file()]
        for place, file in enumerate(files):
            if found := _read(file):
                others = [other for other in files[place + 1 :] if _is_meant(other)]
                return replace(found, passed_over=others[0] if others else None)
        if (folder / ".git").exists():
            break
    return Config(None, Whole())


def check(config: Config, catalog: Sequence[Check], retired: Mapping[str, str]) -> None:
    """Whether every check, rule, threshold and format that the file names is there.

    Raises:
        UsageError: one is not; the message names the key.
    """
    for where, settings in (("", config.settings), *((f"targets.{k}.", v) for k, v in config.settings.targets.items())):
        named = [*settings.select, *(one.code for one in settings.ignore), *settings.severity]
        for word in named:
            try:
                choose(catalog, [word], retired=retired)
            except UsageError as error:
                raise UsageError(f"{config.file}: {where or '[tool.stabcheck] '}{error}") from None
        for id, numbers in settings.thresholds.items():
            key = f"{config.file}: {where}thresholds.{id}"
            found = next((check for check in catalog if check.id == id), None)
            if found is None:
                raise UsageError(f"{key}: no check {id!r}{nearest(id, [check.id for check in catalog])}")
            known = list(thresholds.of(found))
            for name in numbers:
                if name not in known:
                    raise UsageError(
                        f"{key}: no threshold {name!r}{nearest(name, known)}; it has {', '.join(known) or 'none'}"
                    )
        for name in settings.output:
            if name not in FORMATS:
                raise UsageError(f"{config.file}: {where}output: no format {name!r}{nearest(name, FORMATS)}")


def suppressions(config: Config, settings: Settings) -> tuple[Suppression, ...]:
    """What the settings of a target accept. What is accepted for all targets may well be found in another one only, so
    that it is not worth telling that it matched nothing."""
    shared = config.settings.ignore if len(config.targets()) + (config.settings.target is not None) > 1 else []
    return tuple(
        Suppression(one.code, one.reason, one.location, one.until, lasting=one not in shared) for one in settings.ignore
    )


def _read(file: Path, *, required: bool = False) -> Config | None:
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not TOML: {error}") from None
    table: Any = document
    if file.name == "pyproject.toml":
        tool = document.get("tool")
        table = tool.get("stabcheck") if isinstance(tool, dict) else None
        if table is None:
            if required:
                raise UsageError(f"{file}: it has no table [tool.stabcheck]")
            return None
    try:
        return Config(file, Whole.model_validate(table))
    except ValidationError as error:
        raise UsageError(f"{file}: {_said(error)}") from None


def _is_meant(file: Path) -> bool:
    """Whether a file that does not hold has settings for us; what is wrong in it is nobody's concern."""
    try:
        return _read(file) is not None
    except UsageError:
        return True


def _said(error: ValidationError) -> str:
    """The first thing that is wrong: the key, what is there, and the nearest key that exists."""
    first = error.errors()[0]
    # Of a union, pydantic adds the member that it tried; that is no key of the user's.
    path = [str(part) for part in first["loc"] if str(part) not in {"str", "bool", "int", "float"}]
    key = ".".join(path) or "[tool.stabcheck]"
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(path[-1], _keys(path[:-1]))}"
    if first["type"] == "missing":
        return f"{'.'.join(path[:-1])}: the key {path[-1]!r} is missing"
    given = first["input"]
    if first["type"] == "model_type":
        code = json.dumps(given) if isinstance(given, str) else '"SC0901"'
        table = f'{{code = {code}, reason = "why it is accepted"}}' if "ignore" in path else "a table of keys"
        return f"{key} is {given!r} ({type(given).__name__}): write {table}"
    if first["type"] == "date_type" and isinstance(given, str):
        return f"{key} is {given!r}: write the date without quotes, {path[-1]} = {_day(given)}"
    kind = {bool: "true or false"}.get(type(given), type(given).__name__)
    return f"{key} is {given!r} ({kind}): {first['msg'][0].lower()}{first['msg'][1:]}"


def _day(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        return "2027-01-31"


def _keys(path: Sequence[str]) -> list[str]:
    """The keys of the table at `path`."""
    if path[-2:-1] == ["ignore"]:
        model: type[_Table] = Ignored
    else:
        model = Settings if path[:1] == ["targets"] else Whole
    return [_dashed(name) for name in model.model_fields]


def _merged(common: Settings, own: Settings) -> Settings:
    """The settings of one target: its own over the common ones; what is accepted adds up."""
    fields: dict[str, Any] = {}
    for name in Settings.model_fields:
        here, there = getattr(own, name), getattr(common, name)
        is_set = name in own.model_fields_set
        if isinstance(there, dict):
            fields[name] = {**there, **here}
        elif name == "ignore":
            fields[name] = [*there, *here]
        else:
            fields[name] = here if is_set else there
    return Settings.model_construct(**fields)


def _no_target(config: Config) -> str:
    names: Iterable[str] = config.settings.targets
    if config.file is None:
        return "TARGET is missing: path/to/file.py:function, or a configuration file with a 'target'"
    said = ", ".join(names)
    return f"TARGET is missing, and {config.file} has no 'target'" + (f": name one of {said}, or --all" if said else "")
