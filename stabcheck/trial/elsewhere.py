"""The set-up built in another interpreter, where strings have other hashes.

Python draws the hash of a string anew for each process: what iterates over a set of strings, or is seeded with hash(),
is another thing after every restart, whatever the seeds. Building a set-up twice in one process, or in a fork of it, does
not show that.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from stabcheck.loading import EntryPoint, load_entry
from stabcheck.targets import TargetError
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.nursery import STAGE, Nursery
from stabcheck.trial.rng import seed_all
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, is_users

BATCHES = 8
"""Of the training data that are compared."""

START_SECONDS = 10.0
"""What a new interpreter may take to import torch and the user's libraries, beside building the set-up."""

HASH_SEED = "271828"
"""Of the other interpreter; the present one drew its own from 2**32. Where the user sets PYTHONHASHSEED all have that one."""

_UNORDERED = frozenset({"set", "frozenset"})
_ORDERLESS_USES = frozenset({"sorted", "len", "sum", "min", "max", "any", "all", "set", "frozenset"})


@dataclass(frozen=True)
class Built:
    """What a set-up starts with."""

    weights: dict[str, torch.Tensor]
    data: list[list[torch.Tensor]]
    """The tensors of the first batches."""


def depends_on_hashes(bench: Bench) -> bool:
    """Whether the sources of the entry function, or of modules of the user's that they use, call hash(), or make a set whose
    order may matter; False where another process cannot load the entry function."""
    if ":" not in bench.entry.target:
        return False
    waiting, seen = [getattr(bench.entry.function, "__globals__", {})], set[str]()
    while waiting:
        names = waiting.pop()
        file = str(names.get("__file__") or "")
        if file and file not in seen and is_users(file):
            seen.add(file)
            homes = {getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in names.values()}
            waiting += [vars(sys.modules[home]) for home in homes if isinstance(home, str) and home in sys.modules]
    return any(_mentions(file) for file in sorted(seen))


def built_elsewhere(bench: Bench, checkpoint: str | None = None) -> Built | None:
    """The set-up from the same seed in a process with other hashes, after loading the checkpoint if one is given. None if
    there is no time for it, or the user fixes the hashes.

    Raises:
        UserCodeError: building or loading it raised there.
    """
    if "PYTHONHASHSEED" in os.environ or 3 * (bench.load_seconds + START_SECONDS) > bench.remaining():
        return None
    with tempfile.TemporaryDirectory(dir=bench.scratch, prefix="elsewhere-", ignore_cleanup_errors=True) as folder:
        answer = Path(folder) / "built.pt"
        job = {
            "target": bench.entry.target,
            "texts": bench.entry.texts,
            "folder": bench.entry.folder,
            "seed": bench.seed,
            "threads": torch.get_num_threads(),
            "checkpoint": checkpoint,
            "answer": str(answer),
        }
        nursery = Nursery(parked=False, files=Path(folder), environment={"PYTHONHASHSEED": HASH_SEED})
        nursery.deadline = bench.deadline
        nursery.run("stabcheck.trial.elsewhere:build", job)
        weights, data = torch.load(answer, weights_only=True)
    return Built(weights, data)


def load_here(job: dict[str, Any]) -> EntryPoint:
    """The entry point in a fresh process that stands where the first one does: same folder, threads and seed.

    Raises:
        UserCodeError: it cannot be loaded there.
    """
    os.chdir(job["folder"])
    torch.set_num_threads(job["threads"])
    seed_all(job["seed"])
    try:
        return load_entry(job["target"], job["texts"])
    except TargetError as error:
        raise UserCodeError(STAGE, str(error)) from None


def build(job: dict[str, Any]) -> None:
    """What happens in the other process; see `built_elsewhere`."""
    entry = load_here(job)
    seed_all(job["seed"])
    session = Session(entry.build())
    weights = {name: p.detach().cpu() for name, p in session.model.named_parameters()} if not job["checkpoint"] else {}
    if job["checkpoint"]:
        session.load(Path(job["checkpoint"]))
    torch.save((weights, first_data(session, job["seed"])), job["answer"])


def first_data(session: Session, seed: int) -> list[list[torch.Tensor]]:
    """The tensors of the first batches, drawn from one seed."""
    seed_all(seed)
    return [[t.detach().cpu() for t in batches.tensors(batch)] for batch in islice(session.epoch(), BATCHES)]


def _mentions(name: str) -> bool:
    try:
        tree = ast.parse(Path(name).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return False
    return any(_order_matters(node) for node in _walk(tree))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but what goes straight into a use for which order does not matter."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.Compare) and child in node.comparators:
            continue
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ORDERLESS_USES
        if is_call and isinstance(child, ast.Set | ast.SetComp | ast.Call) and _order_matters(child):
            continue
        yield child
        yield from _walk(child)


def _order_matters(node: ast.AST) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    return node.func.id == "hash" or (node.func.id in _UNORDERED and bool(node.args))
