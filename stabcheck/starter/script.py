"""A training script as a reader sees it: what it defines, what it imports, and the statements that run when it is started.

The statements of `if __name__ == "__main__":` and of the function that it calls to do everything are taken as one row
with those of the module: the *flow*. What comes in it before training begins is what builds the set-up.
"""

from __future__ import annotations

import ast
import builtins
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
TRAINERS = re.compile(r"train|learn|model|net\b|runner|engine", re.IGNORECASE)
"""What has a `fit` or `train` that trains. A scaler of the data has a `fit` too."""
DEEPEST = 3
"""Functions that are followed into one another: `main()` that calls `run(args)` that does it all."""


class ScriptError(ValueError):
    """The script cannot be read. The message is one line."""


@dataclass
class Script:
    """What was read."""

    path: Path
    text: str
    tree: ast.Module
    definitions: dict[str, Definition] = field(default_factory=dict)
    """Functions and classes of the module's own level, by name."""
    imports: dict[str, ast.Import | ast.ImportFrom] = field(default_factory=dict)
    """Bound name -> the statement that imports it, at the module's own level."""
    stars: list[ast.ImportFrom] = field(default_factory=list)
    constants: dict[str, ast.stmt] = field(default_factory=dict)
    """Names that the module gives a value once, without calling anything."""
    flow: list[ast.stmt] = field(default_factory=list)
    """What runs before training begins, in order."""
    training: list[ast.stmt] = field(default_factory=list)
    """The first statement that trains, and what comes after it."""
    trains_on_import: bool = False
    """Whether importing the script would start the training, so that it must not be imported."""
    reads_arguments: bool = False
    """Whether it reads the command line."""
    required_arguments: list[str] = field(default_factory=list)
    """Those that its argparse does not do without."""

    def trains(self, node: ast.AST, depth: int = DEEPEST) -> bool:
        """Whether the node calls `backward` or the like, itself or through functions of the script."""
        for call in calls(node):
            name = callee(call)
            last = name.rpartition(".")[2]
            if "." in name and (last == "backward" or (last == "fit" and TRAINERS.search(name))):
                return True
            if last == "train" and "trainer" in name.lower():
                return True
            called = [self.definitions.get(name)] if "." not in name else self._methods(last)
            if depth and any(isinstance(d, Function) and self.trains(d, depth - 1) for d in called):
                return True
        return False

    def _methods(self, name: str) -> list[ast.stmt]:
        """The methods of that name in the script's own classes."""
        classes = [node for node in self.definitions.values() if isinstance(node, ast.ClassDef)]
        return [inner for node in classes for inner in node.body if isinstance(inner, Function) and inner.name == name]

    def source(self, node: ast.stmt) -> str:
        """The statement as it stands in the script, without its indentation; rewritten where it shares a line with others."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(item.lineno for item in decorators)])
        lines = textwrap.dedent("\n".join(self.text.split("\n")[first - 1 : node.end_lineno]))
        try:
            parsed = ast.parse(lines).body
        except (SyntaxError, ValueError):
            parsed = []
        # A string over several lines must not lose its indentation, nor a statement its neighbour.
        return lines if len(parsed) == 1 and ast.dump(parsed[0]) == ast.dump(node) else ast.unparse(node)


def read(path: Path) -> Script:
    """The script in a file.

    Raises:
        ScriptError: there is none, or it is not Python.
    """
    if path.is_dir():
        raise ScriptError(f"{path} is a directory: name the training script in it")
    if path.suffix == ".ipynb":
        raise ScriptError(f"{path} is a notebook: export it first, jupyter nbconvert --to script {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScriptError(f"{path}: {error.strerror}") from None
    try:
        tree = ast.parse(data)
        text = data.decode(tokenize.detect_encoding(io.BytesIO(data).readline)[0])
    except SyntaxError as error:
        where = f":{error.lineno}" if error.lineno else ""
        advice = "; a line of a notebook that begins with % or ! is no Python" if _is_magic(data, error.lineno) else ""
        raise ScriptError(f"{path}{where}: not valid Python ({error.msg}){advice}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ScriptError(f"{path}: cannot be read as Python ({error})") from None
    script = Script(path, text.replace("\r\n", "\n").replace("\r", "\n"), tree)
    _fill(script)
    return script


def _is_magic(data: bytes, line: int | None) -> bool:
    lines = data.decode("utf-8", "replace").splitlines()
    return line is not None and 0 < line <= len(lines) and lines[line - 1].lstrip()[:1] in {"%", "!"}


def _fill(script: Script) -> None:
    rows: list[ast.stmt] = []
    for node in script.tree.body:
        if isinstance(node, Definition):
            script.definitions[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            _take_import(script, node)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            rows.append(node)
    outside = [node for node in rows if not is_guard(node)]
    for node in outside:
        if isinstance(node, ast.Try):
            # An import that may fail, and what stands in for it then.
            for inner in ast.walk(node):
                if isinstance(inner, (ast.Import, ast.ImportFrom)):
                    _take_import(script, inner, whole=node)
    written = [name for node in script.tree.body for name in stored(node)]
    for node in outside:
        names = stored(node)
        is_plain = isinstance(node, (ast.Assign, ast.AnnAssign)) and not list(calls(node))
        if is_plain and names and all(written.count(name) == 1 for name in names):
            script.constants.update(dict.fromkeys(names, node))
    script.trains_on_import = any(script.trains(node) or _needs_notebook(node) for node in outside)
    flow = [inner for node in rows for inner in (node.body if is_guard(node) else [node])]  # type: ignore[attr-defined]
    flow = [node for node in flow if not _needs_notebook(node)]
    _split(script, list(_unrolled(script, flow, DEEPEST)))
    if not script.training:
        # A function that something else is to call: a command-line library, or another file.
        starts = [node for node in script.definitions.values() if isinstance(node, ast.FunctionDef)]
        starts = [node for node in starts if _builds(node) and script.trains(node)]
        _split(script, [*flow, *(_unrolled(script, starts[-1].body, DEEPEST) if starts else ())])
    script.reads_arguments = any(
        callee(call).endswith(("parse_args", "parse_known_args")) for call in calls(script.tree)
    )
    script.required_arguments = [_argument(call) for call in calls(script.tree) if _is_required_argument(call)]
    script.reads_arguments |= any(isinstance(n, ast.Attribute) and n.attr == "argv" for n in ast.walk(script.tree))


def _take_import(script: Script, node: ast.Import | ast.ImportFrom, whole: ast.stmt | None = None) -> None:
    for alias in node.names:
        if alias.name == "*" and isinstance(node, ast.ImportFrom):
            script.stars.append(node)
        else:
            one = type(node)(**{**{key: getattr(node, key) for key in node._fields}, "names": [alias]})
            found = ast.copy_location(one, node)
            script.imports[alias.asname or alias.name.partition(".")[0]] = whole or found  # type: ignore[assignment]


def _split(script: Script, rows: list[ast.stmt]) -> None:
    begins = next((place for place, node in enumerate(rows) if script.trains(node)), len(rows))
    script.flow, script.training = rows[:begins], rows[begins:]


def _unrolled(script: Script, rows: Iterable[ast.stmt], depth: int) -> Iterator[ast.stmt]:
    """The statements, with a call of a function that both builds and trains replaced by what it does, and a block that
    holds the training by its statements."""
    for node in rows:
        function = _called(script, node)
        if depth and function is not None and script.trains(function) and _builds(function):
            yield from _bound(function, node)
            yield from _unrolled(script, function.body, depth - 1)
        elif (
            isinstance(node, (ast.With, ast.If, ast.Try)) and script.trains(node) and any(_builds(n) for n in node.body)
        ):
            yield from _unrolled(script, node.body, depth)
        else:
            yield node


def _called(script: Script, node: ast.stmt) -> ast.FunctionDef | None:
    value = getattr(node, "value", None) if isinstance(node, (ast.Expr, ast.Assign, ast.Return)) else None
    definition = script.definitions.get(callee(value)) if isinstance(value, ast.Call) else None
    return definition if isinstance(definition, ast.FunctionDef) else None


def _builds(node: ast.AST) -> bool:
    """Whether it hands parameters to something, as whoever makes an optimizer does."""
    words = ("optim", "adam", "sgd", "trainer", "loader")
    return any(word in callee(call).lower() for call in calls(node) for word in words)


def _bound(function: ast.FunctionDef, node: ast.stmt) -> Iterator[ast.stmt]:
    """Assignments of what the call gives to the function's parameters."""
    call = next(calls(node))
    takes = function.args
    names = [argument.arg for argument in (*takes.posonlyargs, *takes.args)]
    given = dict(zip(names[len(names) - len(takes.defaults) :], takes.defaults, strict=True))
    given |= {a.arg: d for a, d in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if d is not None}
    given |= {name: value for name, value in zip(names, call.args, strict=False) if not isinstance(value, ast.Starred)}
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    for name, value in given.items():
        if not (isinstance(value, ast.Name) and value.id == name):
            made = ast.Assign(targets=[ast.Name(name, ast.Store())], value=value)
            yield ast.fix_missing_locations(ast.copy_location(made, node))


def _argument(call: ast.Call) -> str:
    words = [str(word.value) for word in call.args if isinstance(word, ast.Constant)]
    return max(words, key=len, default="")


def _is_required_argument(call: ast.Call) -> bool:
    name = _argument(call) if callee(call).endswith(".add_argument") else ""
    settings = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name.startswith("-"):
        return settings.get("required") == "True"
    return bool(name) and settings.get("nargs", "") not in {"'?'", "'*'"}


def _needs_notebook(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id == "get_ipython" for inner in ast.walk(node))


def is_guard(node: ast.AST) -> bool:
    """Whether it is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """Every call in the node, its own first."""
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))


def callee(call: ast.AST) -> str:
    """`torch.optim.Adam` for a call of it; of a method of a call's result, such as `Net().to`, the part after it."""
    node = call.func if isinstance(call, ast.Call) else call
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def stored(node: ast.AST) -> list[str]:
    """The names that a statement binds, where it stands."""
    if isinstance(node, Definition):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    return [n.id for n in own(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def own(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is in it, but for the insides of functions, classes and comprehensions."""
    yield node
    scopes = (*Definition.__args__, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, scopes):
            yield inner
        else:
            yield from own(inner)


def used(node: ast.AST) -> set[str]:
    """The names from outside that a statement or definition reads."""
    inside = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    inside |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    inside |= {n.name for n in ast.walk(node) if isinstance(n, Definition)}
    inside |= {name for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom)) for name in stored(n)}
    inside |= {n.name for n in ast.walk(node) if isinstance(n, ast.ExceptHandler) and n.name}
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
        # x = f(x): the x on the right is that of before.
        value = node.value
        inside -= used(value) if value is not None else set()
        inside -= set(stored(node)) if isinstance(node, ast.AugAssign) else set()
        read |= set(stored(node)) if isinstance(node, ast.AugAssign) else set()
    return {name for name in read - inside if not hasattr(builtins, name) and name not in {"__file__", "__name__"}}


def names_of(nodes: Sequence[ast.AST]) -> set[str]:
    """The names that the nodes read."""
    return {name for node in nodes for name in used(node)}
