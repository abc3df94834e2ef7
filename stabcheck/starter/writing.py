"""The entry-point file: what was found wired in, and what was not as a marked gap with what belongs there."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from stabcheck.starter import loop as loops
from stabcheck.starter import roles, trainers, wiring
from stabcheck.starter.script import Script, stored, used
from stabcheck.starter.slices import Slice, Slicer

GAP = "# GAP"
"""What marks a place that is left for the user."""

WANTED: dict[str, str] = {
    "model": "your model, a torch.nn.Module",
    "train_loader": "the loader of training batches",
    "val_loader": "the loader of validation batches",
    "loss_fn": "called as loss_fn(outputs, targets); or 'compute_loss', called as compute_loss(model, batch); neither if the model "
    "returns its loss",
    "optimizer": "the optimizer that you train with",
    "scheduler": 'the learning-rate schedule, with \'scheduler_interval\': "step" or "epoch"; nothing if you have none',
    "max_epochs": "how many epochs the real run has, or 'max_steps'",
    "train_step": "your own whole step, called as train_step(batch): zero_grad, backward, clipping, step; it returns the loss",
    "validate": "your own validation loop, called without arguments",
    "save": "your own checkpoint writer, called as save(path), with 'load', called as load(path)",
}
"""Key -> what belongs there. What comes first is worth most."""

REQUIRED = ("model", "train_loader")
INSTEAD = {"loss_fn": "compute_loss", "max_epochs": "max_steps"}


@dataclass
class Draft:
    """An entry-point file, and what is to be said of it."""

    text: str
    wired: dict[str, str] = field(default_factory=dict)
    """Key -> the expression it was given."""
    gaps: dict[str, str] = field(default_factory=dict)
    """Key -> what belongs there, or why it could not be wired in."""
    notes: list[str] = field(default_factory=list)
    """What else the user has to know."""

    @property
    def can_run(self) -> bool:
        """Whether there is enough to build."""
        return not any(key in self.gaps for key in REQUIRED)


def template() -> Draft:
    """The file for a user who has no script to look at."""
    body = ["# Build your model, loaders and optimizer here, as your training script does before its loop."]
    return Draft(_render(_Parts(["import torch"], body), {}, WANTED, "an empty template"), {}, dict(WANTED))


def draft(script: Script) -> Draft:
    """The file for a script. It is valid Python, whatever the script."""
    made = _draft(script)
    try:
        compile(made.text, "entry point", "exec")
    except (SyntaxError, ValueError, RecursionError):
        made = template()
        made.notes.append(f"{script.path.name} could not be taken apart: this is the plain template")
    return made


@dataclass
class _Parts:
    head: list[str] = field(default_factory=list)
    """Imports, and what is copied to the top."""
    body: list[str] = field(default_factory=list)
    """Statements of the function."""


def _draft(script: Script) -> Draft:
    trainers.give_name(script)
    found, loop = roles.find(script), loops.find(script)
    stem = script.path.stem
    importable = stem.isidentifier() and not script.trains_on_import and stem not in sys.builtin_module_names
    slicer = Slicer(script, importable=importable)
    known = {name for node in script.flow for name in stored(node)} | set(script.constants)
    names = dict(found.names)
    wired, gaps = dict(names), {}
    extra: list[str] = []
    if loop is not None:
        _from_loop(loop, script, known, wired, extra, found.objects)
    own, why_not = wiring.wire(script, names, known, found.objects)
    wired |= {one.key: one.source for one in own}
    hugging = trainers.of_hugging_face(script)
    if hugging is not None:
        wired, found.several = hugging[1], []
        extra.append(trainers.PREPARED.format(name=hugging[0]))
    wanted = [hugging[0]] if hugging else sorted({name for value in wired.values() for name in _names(value)})
    wanted += sorted(loop.needs()) if loop is not None and extra and not hugging else []
    cut = slicer.slice(wanted)
    notes = _notes(script, cut, importable=importable)
    if found.several:
        notes.append(
            f"there are several optimizers ({', '.join(found.several)}), and the last one was taken: with a 'train_step' of "
            "your own that steps them all, and no 'optimizer', all are seen"
        )
    if hugging is not None:
        gaps["loss_fn"] = ""  # the model returns it
    if not any(key in wired for key in ("scheduler", "scheduler_interval")) and "scheduler" not in script.text:
        gaps["scheduler"] = ""
    missing = {
        key: why_not.get(key, what)
        for key, what in WANTED.items()
        if key not in wired and INSTEAD.get(key) not in wired and gaps.get(key) != ""
    }
    parts = _parts(script, cut, importable=importable)
    parts.head[:0] = ["import math"] if hugging else []
    parts.body += extra
    _note_loop(loop, script, missing)
    text = _render(parts, wired, missing, script.path.name, notes=notes, unknown=cut.unknown, left_out=cut.left_out)
    return Draft(text, _sorted(wired), missing, notes)


def _from_loop(
    loop: loops.Loop,
    script: Script,
    known: set[str],
    wired: dict[str, str],
    extra: list[str],
    objects: dict[str, str],
) -> None:
    """Wire in what the training loop shows."""
    within = known | set(script.imports) | set(script.definitions)

    def outside(text: str) -> str:
        # In a method of the user's trainer, as one sees it from where the trainer is made.
        return re.sub(r"\bself\b", objects[loop.owner], text) if loop.owner in objects else text

    def take(key: str, node: ast.expr | None) -> None:
        text = outside(ast.unparse(node)) if node is not None else ""
        if text and used(ast.parse(text, mode="eval").body) <= within:
            wired[key] = text

    take("max_epochs", loop.epochs)
    take("clip_grad_norm", loop.clip)
    take("accumulate_steps", loop.accumulate)
    if loop.precision:
        wired["precision"] = f'"{loop.precision}"'
    if loop.interval and "scheduler" in wired:
        wired["scheduler_interval"] = f'"{loop.interval}"'
    if loop.loss is not None:
        take("loss_fn", ast.parse(loop.loss, mode="eval").body)
        return
    if loop.body and loop.batch is not None and loop.needs() <= within:
        wired.pop("loss_fn", None)
        wired["compute_loss"] = "compute_loss"
        first, last = loop.body[0].lineno, loop.body[-1].end_lineno
        lines = [f"# from {script.path.name}, lines {first} to {last}: what leads to the loss"]
        lines.append(f"def compute_loss({loop.model if loop.model and loop.model.isidentifier() else 'model'}, batch):")
        target = ast.unparse(loop.batch)
        inside = [] if target == "batch" else [f"{target.strip('()')} = batch"]
        inside += [script.source(node) for node in loop.body]
        lines.append(textwrap.indent("\n".join([*inside, f"return {loop.result}"]), "    "))
        extra.append("\n".join(lines))


def _names(expression: str) -> set[str]:
    return used(ast.parse(expression, mode="eval").body) - {"batch", "path", "compute_loss"}


def _parts(script: Script, cut: Slice, *, importable: bool) -> _Parts:
    parts = _Parts()
    relative = any(isinstance(node, ast.ImportFrom) and node.level for node in script.imports.values())
    future = [n for n in script.tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    if any(alias.name == "annotations" for node in future for alias in node.names):
        parts.head.append("from __future__ import annotations")
    if script.reads_arguments and cut.statements:
        parts.head.append("import sys")
    parts.head += [text for text in cut.imports if text != "import sys" or not script.reads_arguments]
    if cut.taken:
        where = f".{script.path.stem}" if relative else script.path.stem
        parts.head.append(f"from {where} import {', '.join(cut.taken)}")
    if cut.copied:
        parts.head.append(f"\n# Copied from {script.path.name}, which trains when it is imported.")
        parts.head += [_spaced(script, node) for node in cut.copied]
    if script.reads_arguments and cut.statements:
        needed = ", ".join(script.required_arguments)
        must = f"; it requires {needed}" if needed else ""
        parts.body.append(f"sys.argv = [{script.path.name!r}]  # the arguments of your run: add them here{must}")
    if cut.statements:
        lines = [node.lineno for node in cut.statements if node.lineno]
        if lines:
            parts.body.append(f"# from {script.path.name}, between line {min(lines)} and line {max(lines)}")
        parts.body += [script.source(node) if node.lineno else ast.unparse(node) for node in cut.statements]
    return parts


def _spaced(script: Script, node: ast.stmt) -> str:
    source = script.source(node)
    return f"\n\n{source}\n" if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else source


def _note_loop(loop: loops.Loop | None, script: Script, missing: dict[str, str]) -> None:
    if loop is not None and missing.get("train_step") == WANTED["train_step"]:
        first, last = loop.lines
        missing["train_step"] += f" (your loop: {script.path.name}, lines {first} to {last})"


def _notes(script: Script, cut: Slice, *, importable: bool) -> list[str]:
    notes = []
    if script.trains_on_import:
        notes.append(
            f"{script.path.name} trains when it is imported, so what is needed was copied: put its training under "
            'if __name__ == "__main__": and import from it instead'
        )
    elif not importable:
        notes.append(f"{script.path.name} cannot be imported by its name, so what is needed was copied")
    if cut.unknown:
        notes.append(
            f"where do these come from: {', '.join(cut.unknown)}? They are nowhere in {script.path.name} before it trains"
        )
    for node in cut.left_out:
        notes.append(f"line {node.lineno} of {script.path.name} could not be taken over, as it returns or waits")
    if script.reads_arguments and cut.statements:
        notes.append(
            f"{script.path.name} reads the command line: the arguments of your run belong into sys.argv, in setup()"
        )
    return notes


def _render(
    parts: _Parts,
    wired: dict[str, str],
    missing: dict[str, str],
    origin: str,
    *,
    notes: list[str] | None = None,
    unknown: list[str] | None = None,
    left_out: list[ast.stmt] | None = None,
) -> str:
    origin = origin.encode("ascii", "backslashreplace").decode().replace('"', "'").replace("\\", "/")
    lines = [
        f'"""Entry point for stabcheck, begun by "stabcheck init" from {origin}. It is yours now: look through it.'
    ]
    lines += ["", f'What could not be found is marked "{GAP[2:]}". The more keys, the more is checked.', '"""', ""]
    lines += [*parts.head, "", "", "def setup():", '    """Build everything afresh, and return it."""']
    body = [*(f"{GAP}: where does {name!r} come from?" for name in unknown or ())]
    body += [f"{GAP}: line {node.lineno} of the script returns or waits, and was left out" for node in left_out or ()]
    body += parts.body
    lines += [_indented(part) for part in body]
    if body:
        lines.append("")
    lines.append("    return {")
    lines += [f'        "{key}": {value},' for key, value in _sorted(wired).items()]
    for key, what in missing.items():
        lines += [
            f"        {GAP} {line}" if not place else f"        #     {line}"
            for place, line in enumerate(_wrapped(key, what))
        ]
        lines.append(f'        # "{key}": ...,')
    return "\n".join([*lines, "    }", ""])


def _sorted(wired: dict[str, str]) -> dict[str, str]:
    """In the order in which a set-up is best read."""
    order = {key: place for place, key in enumerate(("model", "train_loader", "val_loader", "loss_fn", "compute_loss", "optimizer",
                                                      "scheduler", "scheduler_interval", "max_epochs"))}  # fmt: skip
    return dict(sorted(wired.items(), key=lambda item: order.get(item[0], len(order))))


def _wrapped(key: str, what: str) -> list[str]:
    return textwrap.wrap(f"{key}: {' '.join(what.split())}", 100) or [key]


def _indented(part: str) -> str:
    """The lines moved into the function. Those inside a string of several lines stay as they are."""
    try:
        strings = _inside_strings(part)
    except SyntaxError:
        strings = set()
    rows = part.split("\n")
    return "\n".join(row if not row or place in strings else f"    {row}" for place, row in enumerate(rows))


def _inside_strings(part: str) -> set[int]:
    """Places of the lines that begin within a string."""
    found = set()
    for node in ast.walk(ast.parse(part)):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno and node.end_lineno > node.lineno:
            is_text = isinstance(node, ast.JoinedStr) or isinstance(node.value, (str, bytes))
            found |= set(range(node.lineno, node.end_lineno)) if is_text else set()
    return found


def beside(script: Path | None) -> Path:
    """Where the file goes."""
    return (script.parent if script is not None else Path()) / "stabcheck_setup.py"
