"""Objects that hold the whole training: of a class of the script's own, and the Trainer of Hugging Face."""

from __future__ import annotations

import ast
import re

from stabcheck.starter import roles
from stabcheck.starter.script import Script, callee, calls, stored

NAME = "trainer"

_FAMILY = re.compile(r"^(transformers|trl|setfit|optimum)\b")

PREPARED = """\
args = {name}.args
steps = args.max_steps
if steps <= 0:
    steps = math.ceil(args.num_train_epochs * len({name}.get_train_dataloader()) / args.gradient_accumulation_steps)
{name}.create_optimizer_and_scheduler(num_training_steps=steps)"""
"""What `train()` of a Hugging Face Trainer does before its loop."""

WIRED = {
    "model": "{name}.model",
    "train_loader": "{name}.get_train_dataloader()",
    "val_loader": "{name}.get_eval_dataloader()",
    "compute_loss": "{name}.compute_loss",
    "optimizer": "{name}.optimizer",
    "scheduler": "{name}.lr_scheduler",
    "scheduler_interval": '"step"',
    "max_steps": "steps",
    "validate": "{name}.evaluate",
    "clip_grad_norm": "args.max_grad_norm or None",
    "accumulate_steps": "args.gradient_accumulation_steps",
    "precision": '"bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"',
}


def give_name(script: Script) -> None:
    """Have the flow hold an object of the script's own class that trains: one made and used in a single statement, as by
    `Trainer().fit()`, or, where nothing shows how it is made, one with the arguments that it needs."""
    modules = roles.modules(script)
    kinds = [d for d in script.definitions.values() if isinstance(d, ast.ClassDef) and d.name not in modules]
    kinds = [kind for kind in kinds if script.trains(kind)]
    known = roles.find(script)
    if not kinds or "model" in known.names or known.objects:
        return
    used = [call for node in script.training for call in calls(node) if callee(call) in {kind.name for kind in kinds}]
    made = used[0] if used else ast.Call(ast.Name(kinds[-1].name, ast.Load()), _needed(kinds[-1]), [])
    taken = {*script.definitions, *script.imports, *(name for node in script.flow for name in stored(node))}
    name = NAME if NAME not in taken else f"the_{NAME}"
    node = ast.Assign(targets=[ast.Name(name, ast.Store())], value=made)
    node.lineno = made.lineno if used else 0
    script.flow.append(ast.fix_missing_locations(node))


def _needed(kind: ast.ClassDef) -> list[ast.expr]:
    """The arguments without which no object can be made; their names are nowhere, so each becomes a gap."""
    for method in kind.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            takes = [argument.arg for argument in (*method.args.posonlyargs, *method.args.args)][1:]
            required = takes[: len(takes) - len(method.args.defaults)] if method.args.defaults else takes
            return [ast.Name(name, ast.Load()) for name in required]
    return []


def of_hugging_face(script: Script) -> tuple[str, dict[str, str]] | None:
    """(the name of the script's Trainer, key of a set-up -> the expression that takes it from there)."""
    found = None
    for node in script.flow:
        call = node.value if isinstance(node, ast.Assign) else None
        if isinstance(call, ast.Call) and is_hugging_faces(script, callee(call)):
            found = (stored(node)[0], call)
    if found is None:
        return None
    name, call = found
    wired = {key: value.format(name=name) for key, value in WIRED.items()}
    if not any(keyword.arg == "eval_dataset" for keyword in call.keywords):
        del wired["val_loader"], wired["validate"]
    kind = script.definitions.get(callee(call))
    if kind is None or all(getattr(node, "name", "") != "compute_loss" for node in getattr(kind, "body", ())):
        # The model's own, which is what such a Trainer takes.
        del wired["compute_loss"]
    return name, wired


def is_hugging_faces(script: Script, name: str) -> bool:
    """Whether the class of that name is a Trainer of theirs, or the script's own made from one."""
    kind = script.definitions.get(name)
    if isinstance(kind, ast.ClassDef):
        return any(is_hugging_faces(script, callee(base)) for base in kind.bases if callee(base) != name)
    first, _, last = name.partition(".")
    source = script.imports.get(first)
    if not re.search(r"Trainer$", last or first) or source is None:
        return False
    text = ast.unparse(source)
    return bool(_FAMILY.match(text.removeprefix("from ").removeprefix("import ")))
