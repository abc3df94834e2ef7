"""The script's own functions as the set-up's `train_step`, `validate`, `save` and `load`: called with what it has built, where
every parameter can be told by its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stabcheck.starter.script import Script, callee, calls, own

NAMES: dict[str, str] = {
    "model": r"model|net|network|module",
    "optimizer": r"optimizer|opt|optim",
    "scheduler": r"scheduler|lr_scheduler|sched",
    "loss_fn": r"criterion|loss_fn|loss_func|loss_function|crit",
    "train_loader": r"train_\w*(loader|dl|dataloader)|trainloader",
    "val_loader": r"(val|valid|validation|test|eval|dev)_?\w*(loader|dl|dataloader|data|iter)|\w*loader|data|dl",
}
BATCH = r"batch|data_batch|minibatch|data|sample"
PAIRS = (("x", "y"), ("inputs", "targets"), ("inputs", "labels"), ("images", "labels"), ("data", "target"), ("xb", "yb"),
         ("input", "target"), ("features", "labels"), ("x", "target"), ("imgs", "labels"), ("X", "y"))  # fmt: skip
PATH = r"path|file|filename|file_?path|\w*_path|fname|out|checkpoint(_file)?|ckpt|\w*_file"


@dataclass(frozen=True)
class Wired:
    """A function of the script as a key of the set-up."""

    key: str
    function: str
    source: str
    """The expression for the dict."""
    uses: frozenset[str]


def wire(
    script: Script, names: Mapping[str, str], known: set[str], objects: Mapping[str, str]
) -> tuple[list[Wired], dict[str, str]]:
    """(what could be wired in, key -> why not for a function that was found but could not be). `names` are those of the
    keys found, `known` all that the flow builds, `objects` (class -> name) what of it may have methods that serve."""
    wired: list[Wired] = []
    gaps: dict[str, str] = {}
    places = [(name, getattr(script.definitions[kind], "body", ())) for kind, name in objects.items()]
    found = [(owner, _candidates(nodes)) for owner, nodes in [*places, ("", script.definitions.values())]]
    for key in ("train_step", "validate", "save", "load"):
        for owner, function in [(owner, one) for owner, candidates in found for one in candidates[key]]:
            call = _call(key, function, names, known, owner)
            if isinstance(call, Wired):
                wired.append(call)
                gaps.pop(key, None)
                break
            gaps.setdefault(key, f"{function.name}() (line {function.lineno}) looks like it, but what is its {call!r}?")
    keys = {one.key for one in wired}
    for key, other in (("save", "load"), ("load", "save")):
        if key in keys and other not in keys:
            wired = [one for one in wired if one.key != key]
            gaps.setdefault(
                "save", f"your {key}() was found, but not its counterpart; a checkpoint is tested by both together"
            )
    return wired, gaps


def _candidates(nodes: Iterable[ast.stmt]) -> dict[str, list[ast.FunctionDef]]:
    """Functions or methods, by the key that they look like."""
    found: dict[str, list[ast.FunctionDef]] = {"train_step": [], "validate": [], "save": [], "load": []}
    for node in nodes:
        if not isinstance(node, ast.FunctionDef):
            continue
        called = {callee(call).rpartition(".")[2] for call in calls(node)}
        loops = any(isinstance(inner, (ast.For, ast.While)) for inner in own(node))
        trains = "backward" in called
        if trains and "step" in called and not loops and _returns(node):
            found["train_step"].append(node)
        elif not trains and re.search(r"^(val|eval|test)|valid|evaluate", node.name) and loops:
            found["validate"].append(node)
        elif re.search(r"^save|save_?(checkpoint|model|state)|checkpoint$", node.name) and "save" in called:
            found["save"].append(node)
        elif (
            re.search(r"^(load|resume|restore)_?(check|ckpt|model|state)?", node.name)
            and {"load", "load_state_dict"} <= called
        ):
            found["load"].append(node)
    return found


def _returns(node: ast.FunctionDef) -> bool:
    return any(isinstance(inner, ast.Return) and inner.value is not None for inner in own(node))


def _call(key: str, function: ast.FunctionDef, names: Mapping[str, str], known: set[str], owner: str) -> Wired | str:
    """The call, or the name of the parameter that cannot be told; `owner` has the method, "" for a function."""
    takes = function.args
    parameters = [argument.arg for argument in (*takes.posonlyargs, *takes.args)]
    if owner and not any(callee(decorator) == "staticmethod" for decorator in function.decorator_list):
        parameters = parameters[1:]
    required = parameters[: max(len(parameters) - len(takes.defaults), 0)]
    keywords = [a.arg for a, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if default is None]
    given = {"train_step": "batch", "save": "path", "load": "path"}.get(key)
    words: list[str] = []
    uses: set[str] = {owner or function.name}
    has_given = given is None
    while required:
        name = required.pop(0)
        if given == "batch" and required and (name, required[0]) in PAIRS:
            required.pop(0)
            word, has_given = "*batch", True
        elif given and re.fullmatch(BATCH if given == "batch" else PATH, name) and not has_given:
            word, has_given = given, True
        else:
            word = _value(name, key, names, known)
        if not word:
            return name
        words.append(word)
        uses |= {word} & known
    for name in keywords:
        word = _value(name, key, names, known)
        if not word:
            return name
        words.append(f"{name}={word}")
        uses |= {word} & known
    optional = [name for name in parameters if given == "path" and re.fullmatch(PATH, name)]
    if not has_given and optional:
        words.append(f"{optional[0]}={given}")
        has_given = True
    if not has_given:
        return str(given)
    path = f"{owner}.{function.name}" if owner else function.name
    call = f"{path}({', '.join(words)})"
    if words == ([given] if given else []):
        return Wired(key, function.name, path, frozenset(uses))
    return Wired(key, function.name, f"lambda {given}: {call}" if given else f"lambda: {call}", frozenset(uses))


def _value(name: str, key: str, names: Mapping[str, str], known: set[str]) -> str:
    """What to give for a parameter; "" if its name does not tell."""
    for role, pattern in NAMES.items():
        if key in {"train_step", "save", "load"} and role.endswith("loader"):
            continue
        if role in names and re.fullmatch(pattern, name):
            return names[role]
    if name in known:
        return name
    if name == "epoch":
        return "0"
    if name == "device" and "model" in names:
        return f"next({names['model']}.parameters()).device"
    return ""
