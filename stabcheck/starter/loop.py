"""The script's training loop: how it gets its loss, how long it runs, and when it clips and steps the schedule."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from stabcheck.starter.script import Function, Script, callee, calls, names_of, own, stored

_WRAPPERS = ("tqdm", "enumerate", "track", "zip", "islice", "iter", "prefetch")


@dataclass
class Loop:
    """What could be read of it."""

    lines: tuple[int, int]
    batch: ast.expr | None = None
    """What the loop unpacks a batch into."""
    loss: str | None = None
    """Source of a function `loss(outputs, targets)`, if the loop calls one just so."""
    body: list[ast.stmt] = field(default_factory=list)
    """The statements that lead to the loss, if it is made otherwise."""
    result: str = "loss"
    """The name of the loss."""
    model: str | None = None
    """What the loop calls the model."""
    epochs: ast.expr | None = None
    clip: ast.expr | None = None
    accumulate: ast.expr | None = None
    interval: str | None = None
    precision: str | None = None
    owner: str = ""
    """The class of the script that has the loop in a method."""

    def needs(self) -> set[str]:
        """The names from outside that `body` uses."""
        made = {name for node in self.body for name in stored(node)} | (names_in(self.batch) if self.batch else set())
        return names_of(self.body) - made - {self.model or ""}


def find(script: Script) -> Loop | None:
    """The innermost loop that calls `backward`; None if the script has none, or has it where it cannot be read."""
    places = [*script.training, *script.definitions.values()]
    loops = [node for place in places for node in ast.walk(place) if isinstance(node, ast.For) and _has_backward(node)]
    inner = [node for node in loops if not any(other is not node and _has_backward(other) for other in _loops(node))]
    node, step = (inner[0], None) if inner else _stepping(places)
    if node is None:
        return None
    shown = step or node
    loop = Loop((shown.lineno, shown.end_lineno or shown.lineno), _batch(node))
    loop.owner = next(
        (d.name for d in script.definitions.values() if isinstance(d, ast.ClassDef) and _holds(d, node)), ""
    )
    loop.epochs = _epochs(places, node)
    if step is None:
        _read_loss(loop, node)
    whole = [inner for place in places for inner in ast.walk(place)]
    for call in (inner for inner in whole if isinstance(inner, ast.Call)):
        name = callee(call)
        if name.endswith(("clip_grad_norm_", "clip_grad_norm")):
            given = next((k.value for k in call.keywords if k.arg == "max_norm"), None)
            loop.clip = given or (call.args[1] if len(call.args) > 1 else None)
        elif name.endswith("autocast"):
            kinds = ast.unparse(call)
            loop.precision = "bf16" if "bfloat16" in kinds else "fp16" if "float16" in kinds else loop.precision
    loop.accumulate = _accumulate(shown)
    loop.interval = _interval(places, node, shown)
    return loop


def _stepping(places: list[ast.stmt]) -> tuple[ast.For | None, Function | None]:
    """The innermost loop that calls a function with the `backward` in it, and that function."""
    functions = {d.name: d for place in places for d in ast.walk(place) if isinstance(d, Function)}
    steps = {name: node for name, node in functions.items() if any(_has_backward(part) for part in node.body)}
    found = (
        (loop, steps[name])
        for place in places
        for loop in _loops(place)
        for call in (inner for inner in own(loop) if isinstance(inner, ast.Call))
        if (name := callee(call).rpartition(".")[2]) in steps
        and not any(inner is not loop and _holds(inner, call) for inner in _loops(loop))
    )
    return next(found, (None, None))


def names_in(target: ast.expr) -> set[str]:
    """The names that a target binds."""
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def _holds(outer: ast.AST, node: ast.AST) -> bool:
    return any(inner is node for inner in ast.walk(outer))


def _loops(node: ast.AST) -> Iterator[ast.For]:
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.For))


def _has_backward(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Attribute) and inner.attr == "backward" for inner in own(node))


def _batch(node: ast.For) -> ast.expr | None:
    """The loop's target, without the count of `enumerate`."""
    target, source = node.target, node.iter
    counted = False
    while isinstance(source, ast.Call) and callee(source).rpartition(".")[2] in _WRAPPERS:
        name = callee(source).rpartition(".")[2]
        if name == "zip" or not source.args:
            return None
        counted |= name == "enumerate"
        source = source.args[0]
    if isinstance(source, ast.Call) and callee(source).rpartition(".")[2] == "range":
        return None
    if not counted:
        return target
    return target.elts[1] if isinstance(target, ast.Tuple) and len(target.elts) == 2 else None


def _read_loss(loop: Loop, node: ast.For) -> None:
    """The function that gives the loss, or else the statements that do."""
    backward = next(call for call in calls(node) if callee(call).rpartition(".")[2] == "backward")
    assert isinstance(backward.func, ast.Attribute)
    origin = backward.func.value
    if isinstance(origin, ast.Call) and callee(origin).endswith("scale") and origin.args:
        origin = origin.args[0]
    while isinstance(origin, ast.BinOp):
        origin = origin.left
    if not isinstance(origin, ast.Name):
        return
    loop.result = origin.id
    before: list[ast.stmt] = []
    for statement in node.body:
        if _has_backward(statement):
            break
        before.append(statement)
    made = [s for part in before for s in own(part) if isinstance(s, ast.Assign) and origin.id in stored(s)]
    if not made or loop.batch is None:
        return
    forward = _forward(before)
    loop.model = callee(forward) if forward is not None else None
    call = made[0].value
    if forward is not None and isinstance(call, ast.Call) and _is_plain(loop.batch, forward, call, before):
        loop.loss = ast.unparse(call.func)
        return
    ends = max(place for place, statement in enumerate(before) if origin.id in stored(statement))
    kept = [s for s in before[: ends + 1] if stored(s) or _calls_itself(s, names_in(loop.batch))]
    if not any(isinstance(s, (ast.Continue, ast.Break, ast.Return)) for k in kept for s in own(k)):
        loop.body = kept


def _calls_itself(statement: ast.stmt, names: set[str]) -> bool:
    """Whether it does something with the batch, and does not only say so."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and callee(call).partition(".")[0] in names


def _forward(before: list[ast.stmt]) -> ast.Call | None:
    for statement in before:
        for call in calls(statement):
            if re.fullmatch(r"(self\.)?\w*(model|net|network|classifier)\w*", callee(call), re.IGNORECASE):
                return call
    return None


def _is_plain(batch: ast.expr, forward: ast.Call, call: ast.Call, before: list[ast.stmt]) -> bool:
    """Whether it is `loss(model(first), second)` for a batch `(first, second)`."""
    if not (
        isinstance(batch, (ast.Tuple, ast.List)) and len(batch.elts) == 2 and len(call.args) == 2 and not call.keywords
    ):
        return False
    if not all(isinstance(item, ast.Name) for item in batch.elts) or len(forward.args) != 1 or forward.keywords:
        return False
    first, second = (item.id for item in batch.elts if isinstance(item, ast.Name))
    if not (isinstance(forward.args[0], ast.Name) and forward.args[0].id == first):
        return False
    outputs, targets = call.args
    is_output = outputs is forward or (
        isinstance(outputs, ast.Name)
        and any(
            isinstance(s, ast.Assign) and s.value is forward and outputs.id in stored(s) for b in before for s in own(b)
        )
    )
    # What is done to the batch on the way, but for moving it to the device, belongs to the loss.
    changed = [
        s for b in before for s in own(b)
        if isinstance(s, ast.Assign) and set(stored(s)) & {first, second} and not _only_moves(s.value)
    ]  # fmt: skip
    return is_output and isinstance(targets, ast.Name) and targets.id == second and not changed


def _only_moves(value: ast.expr) -> bool:
    items = value.elts if isinstance(value, ast.Tuple) else [value]
    moves = {"to", "cuda", "cpu", "Variable"}
    return all(isinstance(item, ast.Call) and callee(item).rpartition(".")[2] in moves for item in items)


def _epochs(places: list[ast.stmt], node: ast.For) -> ast.expr | None:
    """The count in `for epoch in range(count)`."""
    for place in places:
        for loop in _loops(place):
            source = loop.iter
            while isinstance(source, ast.Call) and callee(source).rpartition(".")[2] in _WRAPPERS and source.args:
                source = source.args[0]
            is_range = isinstance(source, ast.Call) and callee(source).rpartition(".")[2] in {"range", "trange"}
            called = isinstance(loop.target, ast.Name) and re.search("epoch|^ep?$", loop.target.id)
            if called and is_range and isinstance(source, ast.Call) and loop is not node:
                if len(source.args) == 1:
                    return source.args[0]
                starts = source.args[0] if len(source.args) == 2 else None
                if isinstance(starts, ast.Constant) and starts.value == 0:
                    return source.args[1]
                if (
                    isinstance(starts, ast.Constant)
                    and starts.value == 1
                    and isinstance(end := source.args[1], ast.BinOp)
                ):
                    return end.left
    return None


def _accumulate(node: ast.AST) -> ast.expr | None:
    """The count in `if (i + 1) % count == 0: optimizer.step()`."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.If) and any(
            re.search(r"(optim\w*|opt|scaler)\.step$", callee(c)) for c in calls(inner)
        ):
            for part in ast.walk(inner.test):
                if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod):
                    return part.right
    return None


def _interval(places: list[ast.stmt], *inside: ast.AST) -> str | None:
    """Whether the schedule is stepped in the loop over batches or outside of it."""

    def steps(part: ast.AST) -> bool:
        return any(re.search(r"(sched\w*|lr_\w+)\.step$", callee(call)) for call in calls(part))

    if any(steps(node) for node in inside):
        return "step"
    return "epoch" if any(steps(place) for place in places) else None
