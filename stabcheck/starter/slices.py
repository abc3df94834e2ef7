"""What of a script is needed to build some of its names again: the statements, definitions and imports behind them.

Followed backwards from the names wanted, as far as the script's own text goes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from stabcheck.starter.script import Definition, Script, callee, own, stored, used

PASSING = {
    "step",
    "backward",
    "zero_grad",
    "train",
    "eval",
    "fit",
    "summary",
    "watch",
    "log",
    "close",
    "finish",
    "write",
    "info",
}
"""Methods whose call builds nothing, on whatever object."""


@dataclass
class Slice:
    """What has to be there, so that the names exist."""

    imports: list[str] = field(default_factory=list)
    """Statements, for the top of a file."""
    taken: list[str] = field(default_factory=list)
    """Names to import from the script."""
    copied: list[ast.stmt] = field(default_factory=list)
    """Definitions and constants of the script to copy to the top of a file, as importing it would train."""
    statements: list[ast.stmt] = field(default_factory=list)
    """What is to be done at each call, in the script's order; functions that use what is built here are among it."""
    unknown: list[str] = field(default_factory=list)
    """Names that are nowhere in the script."""
    left_out: list[ast.stmt] = field(default_factory=list)
    """Statements that cannot stand in another function."""


class Slicer:
    """Follows names back through a script."""

    def __init__(self, script: Script, *, importable: bool) -> None:
        self._script, self._importable = script, importable
        self._built = {name for node in script.flow for name in stored(node)} - set(script.constants)
        """Names that the flow builds; what uses them cannot be imported."""

    def leans_on_flow(self, name: str, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a definition of the script uses what the flow builds, itself or through others."""
        node = self._script.definitions.get(name)
        if node is None or name in seen:
            return False
        names = used(node)
        return bool(names & self._built) or any(self.leans_on_flow(other, seen | {name}) for other in names)

    def slice(self, wanted: Iterable[str]) -> Slice:
        """What the names need."""
        script, result = self._script, Slice()
        needed, todo = set(), list(wanted)
        statements: set[int] = set()
        while todo:
            name = todo.pop()
            if name in needed:
                continue
            needed.add(name)
            todo += self._resolve(name, result, statements)
        flow = [node for place, node in enumerate(script.flow) if place in statements]
        result.left_out = [node for node in flow if _cannot_move(node)]
        result.statements = [*_by_line(result.statements), *(node for node in flow if node not in result.left_out)]
        self._order(result)
        return result

    def _resolve(self, name: str, result: Slice, statements: set[int]) -> list[str]:
        """Note where the name comes from; the names that this needs in turn."""
        script, more = self._script, list[str]()
        if name in script.constants and not any(
            name in stored(node) for node in script.flow if node is not script.constants[name]
        ):
            node = script.constants[name]
            if self._importable:
                result.taken.append(name)
            elif node not in result.copied:
                result.copied.append(node)
                more += used(node)
            return more
        places = [i for i, node in enumerate(script.flow) if self._concerns(node, name)]
        if any(name in stored(script.flow[i]) for i in places):
            for place in places:
                if place not in statements:
                    statements.add(place)
                    more += used(script.flow[place]) | (set(stored(script.flow[place])) - {name})
            return more
        if name in script.definitions:
            node = script.definitions[name]
            if self.leans_on_flow(name):
                result.statements.append(node)
                more += used(node)
            elif self._importable:
                result.taken.append(name)
            else:
                result.copied.append(node)
                more += used(node)
            return more
        if name in script.imports:
            text = ast.unparse(script.imports[name])
            if text not in result.imports:
                result.imports.append(text)
            return more
        result.unknown.append(name)
        return more

    def _concerns(self, node: ast.stmt, name: str) -> bool:
        """Whether a statement of the flow gives the name its value, or changes what it has: `model.fc = …`,
        `parser.add_argument(…)`."""
        if name in stored(node):
            return True
        for inner in own(node):
            if (
                isinstance(inner, (ast.Attribute, ast.Subscript))
                and isinstance(inner.ctx, ast.Store)
                and _root(inner) == name
            ):
                return True
            if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Call):
                method = callee(inner.value).rpartition(".")
                if method[0] and _root(inner.value.func) == name and method[2] not in PASSING:
                    return name not in self._script.imports
        return False

    def _order(self, result: Slice) -> None:
        result.taken = sorted(set(result.taken))
        result.copied = _by_line(result.copied)
        # A name that nothing explains may come with a star.
        stars = [ast.unparse(star) for star in self._script.stars]
        result.imports = [text for text in dict.fromkeys([*sorted(result.imports), *stars]) if "__future__" not in text]
        if stars:
            result.unknown = []
        result.unknown = sorted(set(result.unknown))


def _by_line(nodes: list[ast.stmt]) -> list[ast.stmt]:
    """Each once, as they stand in the script."""
    return sorted({id(node): node for node in nodes}.values(), key=lambda node: node.lineno)


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _cannot_move(node: ast.stmt) -> bool:
    """Whether it means something else, or nothing, in another function."""
    kinds = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Nonlocal, ast.Global)
    inside = (inner for inner in own(node) if not isinstance(inner, Definition))
    return any(
        isinstance(inner, (*kinds, ast.Break, ast.Continue)) for inner in inside if not _in_own_loop(inner, node)
    )


def _in_own_loop(inner: ast.AST, node: ast.stmt) -> bool:
    return isinstance(inner, (ast.Break, ast.Continue)) and isinstance(node, (ast.For, ast.While))
