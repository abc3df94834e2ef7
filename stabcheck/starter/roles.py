"""Which names of a script's flow are the model, the loaders, the optimizer and the rest: by what they are made with first,
by what they are called second."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stabcheck.starter.script import Definition, Script, callee, calls, own

OPTIMIZERS = re.compile(
    r"^(Adam\w*|SGD|RMSprop|RAdam|NAdam|Adagrad|Adadelta|Adafactor|LBFGS|Lion|Rprop|ASGD|Muon|LAMB|Lamb)$"
)
SCHEDULERS = re.compile(r"(lr_scheduler\.|^\w*LR$|ReduceLROnPlateau$|CosineAnnealing\w*$|^get_\w*schedule\w*$)")
LOSSES = re.compile(r"(\w*Loss|^F\.\w*(loss|entropy|likelihood)\w*|functional\.\w*(loss|entropy)\w*)$")
MODELS = re.compile(
    r"^(net|network|model|\w*_model|model_\w+|\w*net|classifier|generator|encoder|transformer|gpt|vae)$", re.I
)
PRETRAINED = re.compile(r"(^|\.)(from_pretrained|from_config|create_model|Sequential)$|(^|\.)models\.\w+$")
LOADERS = re.compile(r"(DataLoader$|loaders?$|loaders?_|^get_data|iterator$)", re.I)
FOR_VALIDATION = re.compile(r"val|dev|test|eval|holdout", re.I)
FOR_TRAINING = re.compile(r"train|^tr_|_tr$", re.I)

ALSO = (ast.List, ast.ListComp, ast.Attribute, ast.Name, ast.Lambda, ast.Subscript)
"""What a loader or a loss may be besides the result of a call: a list of batches, `F.cross_entropy`, `loaders["train"]`."""


@dataclass(frozen=True)
class Made:
    """A name that the flow gives the result of a call, or what another name or a display has."""

    name: str
    call: ast.expr

    @property
    def last(self) -> str:
        """The name, or the last part of `trainer.optimizer`."""
        return self.name.rpartition(".")[2]


@dataclass
class Found:
    """Key of a set-up -> the name that has it."""

    names: dict[str, str]
    several: list[str]
    """The names of the optimizers, where there is more than one."""
    objects: dict[str, str]
    """Class of the script, no module -> the name of an object of it: a trainer of the user's own."""


def find(script: Script) -> Found:
    """The names of the flow that play a part."""
    models = modules(script)
    made = list(_made(script.flow))
    objects = {
        callee(one.call): one.name
        for one in made
        if isinstance(script.definitions.get(callee(one.call)), ast.ClassDef) and callee(one.call) not in models
    }
    # What such an object makes for itself is there after what the flow makes, which is the likelier place.
    held = [one for kind, name in objects.items() for one in _held(script.definitions[kind], name)]
    made = [*held, *made]
    found: dict[str, Made] = {}

    def take(key: str, candidates: list[Made]) -> None:
        if candidates:
            found[key] = candidates[-1]

    optimizers = [m for m in made if _is_optimizer(m)]
    take("optimizer", optimizers)
    take("scheduler", [m for m in made if SCHEDULERS.search(callee(m.call)) or m.last in {"scheduler", "lr_scheduler"}])
    take(
        "loss_fn", [m for m in made if LOSSES.search(callee(m.call)) or m.last in {"criterion", "loss_fn", "loss_func"}]
    )
    take("model", _models(made, models, found.get("optimizer")))
    loaders = [
        m for m in made if LOADERS.search(callee(m.call)) or re.search(r"loader|^\w*_dl$|^dl$|^\w*_iter$", m.last, re.I)
    ]
    loaders = [m for m in loaders if not re.search(r"dataset|_set$|sampler|model", m.last, re.I)]
    for_validation = [m for m in loaders if FOR_VALIDATION.search(m.last) and not FOR_TRAINING.search(m.last)]
    for_training = [m for m in loaders if m not in for_validation]
    take("train_loader", [m for m in for_training if FOR_TRAINING.search(m.last)][-1:] or for_training[:1])
    # A test set is for the very end; it stands in only where there is no other.
    take("val_loader", [m for m in for_validation if "test" not in m.last.lower()][-1:] or for_validation[-1:])
    several = list(dict.fromkeys(m.name for m in optimizers if isinstance(m.call, ast.Call)))
    return Found({key: m.name for key, m in found.items()}, several if len(several) > 1 else [], objects)


def modules(script: Script) -> list[str]:
    """The script's classes that derive from `nn.Module`, at once or through one another."""
    found: list[str] = []
    classes = [node for node in script.definitions.values() if isinstance(node, ast.ClassDef)]
    for _ in classes:
        for node in classes:
            bases = [callee(base).rpartition(".")[2] for base in node.bases]
            if node.name not in found and any(b in found or b.endswith(("Module", "PreTrainedModel")) for b in bases):
                found.append(node.name)
    return [node.name for node in classes if node.name in found]


def _models(made: list[Made], classes: list[str], optimizer: Made | None) -> list[Made]:
    """Names that hold a model, the likeliest last."""
    parameters = set()
    if optimizer is not None:
        parameters = {
            callee(call).rpartition(".")[0]
            for call in calls(optimizer.call)
            if callee(call).endswith(("parameters", "parameters_"))
        }
        # In a class that makes it, one's own attributes have another name than outside.
        owner = optimizer.name.rpartition(".")[0]
        parameters |= {re.sub(r"^self\b", owner, name) for name in parameters if owner}
    called = [m for m in made if MODELS.match(m.last) and not _is_optimizer(m)]
    made_of = [m for m in made if any(callee(c) in classes or PRETRAINED.search(callee(c)) for c in calls(m.call))]
    made_of = [m for m in made_of if not re.search(r"token|config|processor|transform|dataset|loader", m.name, re.I)]
    optimized = [m for m in made if m.name in parameters]
    return [*called, *made_of, *optimized]


def _is_optimizer(made: Made) -> bool:
    name = callee(made.call)
    is_known = ".optim." in f".{name}" and "lr_scheduler" not in name
    return is_known or bool(OPTIMIZERS.match(name.rpartition(".")[2])) or made.last in {"optimizer", "optim", "opt"}


def _made(flow: list[ast.stmt]) -> Iterator[Made]:
    for statement in flow:
        for node in own(statement):
            if isinstance(node, Definition):
                continue
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
            for target in targets:
                yield from _pairs(target, value)


def _held(kind: ast.AST, name: str) -> Iterator[Made]:
    """What the class gives to its own attributes when an object is made."""
    methods = {node.name: node for node in getattr(kind, "body", ()) if isinstance(node, ast.FunctionDef)}
    todo = ["__init__"]
    for method in todo:  # grows by the methods that these call
        for node in own(methods[method]) if method in methods else ():
            for target in node.targets if isinstance(node, ast.Assign) else ():
                yield from _pairs(target, node.value if isinstance(node, ast.Assign) else None, owner=name)
            called = callee(node).removeprefix("self.") if isinstance(node, ast.Call) else ""
            todo += [called] if called in methods and called not in todo else []


def _pairs(target: ast.expr, value: ast.expr | None, owner: str = "") -> Iterator[Made]:
    """Names that are given a value; with an `owner`, the attributes that a method of it gives to `self`."""
    if isinstance(target, (ast.Tuple, ast.List)):
        alike = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
        for place, inner in enumerate(target.elts):
            yield from _pairs(inner, value.elts[place] if alike else value, owner)  # type: ignore[union-attr]
        return
    name = target.id if isinstance(target, ast.Name) and not owner else ""
    if owner and isinstance(target, ast.Attribute) and callee(target) == f"self.{target.attr}":
        name = f"{owner}.{target.attr}"
    if name and value is not None:
        call = _maker(value)
        if call is not None or isinstance(value, ALSO):
            yield Made(name, call or value)


def _maker(value: ast.expr) -> ast.Call | None:
    """The call that makes a value; of `Net().to(device)` and `a() if b else c` the inner or first one."""
    if isinstance(value, ast.IfExp):
        return _maker(value.body) or _maker(value.orelse)
    if not isinstance(value, ast.Call):
        return None
    function = value.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Call):
        return _maker(function.value)
    return value
