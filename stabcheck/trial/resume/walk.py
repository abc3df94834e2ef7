"""What a live set-up holds, by name: weights, buffers, optimizers, schedules, and whatever its callbacks close over.

`look(session)` walks from the set-up's keys through closures, methods' objects, `functools.partial`, hooks,
globals named by the user's functions, attributes and containers. Every value that training may change is
one `Leaf` under a path such as `model.fc.weight`, `optimizer.state[fc.weight].exp_avg` or `ema.fc.weight`;
two processes that built the same set-up give it the same path.
"""

from __future__ import annotations

import functools
import io
import logging
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from stabcheck.trial.resume.classes import class_attributes, slot_names
from stabcheck.trial.resume.slots import Slot, attribute_slot, fill, item_slot, state_slot
from stabcheck.trial.resume.state import Generator, Kind, Leaf, sample
from stabcheck.trial.session import Session
from stabcheck.userland import is_users

_DEEPEST = 8
_MOST_OTHERS = 20_000
_LONGEST = 1_000
"""Bounds of the walk through the user's own containers: longer ones are data or logs, not state. Weights and optimizer
state are never left out."""

_LARGEST_ARRAY = 2**22
"""Larger NumPy arrays are data: reading one would cost more than a whole training step."""

KEYS = ("model", "optimizer", "scheduler")
_ROOTS = ("train_step", "loss_fn", "compute_loss", "validate", "save", "load")
_MODULE_INTERNALS = frozenset(name for name in vars(nn.Module()) if "hooks" not in name)
_OPTIMIZER_INTERNALS = frozenset({"state", "param_groups", "defaults", "_zero_grad_profile_name"})
_BOOKKEEPING = frozenset(
    {"optimizer", "verbose", "_last_lr", "_step_count", "_is_initial", "_get_lr_called_within_step", "_initial_step"}
)
"""Scheduler attributes that no future rate depends on: people restore `last_epoch` by hand and are right to."""
_NOT_STATE = (
    types.ModuleType,
    DataLoader,
    Dataset,
    Sampler,
    io.IOBase,
    logging.Logger,
    torch.device,
    torch.dtype,
)


@dataclass
class Look:
    """A walk's result. `leaves` is plain data; the rest belongs to the living set-up."""

    leaves: dict[str, Leaf] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    generators: dict[str, Generator] = field(default_factory=dict)
    """Random generators owned by the set-up's callbacks and modules, by path."""
    iterators: list[str] = field(default_factory=list)
    """Paths of running iterators, whose position cannot be read."""
    containers: dict[str, Any] = field(default_factory=dict)
    """Dictionaries and lists that the user's code fills, by path."""
    aliases: dict[str, list[Slot]] = field(default_factory=dict)
    """For 'model', 'optimizer' and 'scheduler': where the user's callbacks refer to them."""
    model_names: list[str] = field(default_factory=list)
    """The names by which the callbacks refer to the set-up's model."""


def look(session: Session) -> Look:
    """Everything that the set-up's keys lead to. Nothing is changed and no user code is called."""
    return _Walk(session).found


class _Walk:
    """One walk. Objects are visited once, under the first path that leads to them."""

    def __init__(self, session: Session) -> None:
        self.found = Look()
        self._seen: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._others = 0
        setup = session.setup
        self._model = setup.model
        self._keys = {id(getattr(setup, key)): key for key in KEYS if getattr(setup, key) is not None}
        for key in (*KEYS, *_ROOTS):
            self._visit(getattr(setup, key), key, None, 0)

    def _visit(
        self, value: Any, path: str, slot: Slot | None, depth: int, kind: Kind = "number", part: str | None = None
    ) -> None:
        if depth > _DEEPEST or isinstance(value, _NOT_STATE):
            return
        if value is None or isinstance(value, (bool, int, float, str, np.generic)):
            self._leaf(path, Leaf(part or path, kind, _plain(value)), slot)
            return
        if id(value) in self._keys and slot is not None:
            self.found.aliases.setdefault(self._keys[id(value)], []).append(slot)
            if value is self._model:
                self.found.model_names.append(path)
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        try:
            self._enter(value, path, slot, depth, kind, part)
        except Exception:  # the user's own containers and attributes may raise when they are read
            if depth == 0:
                raise

    def _enter(self, value: Any, path: str, slot: Slot | None, depth: int, kind: Kind, part: str | None) -> None:
        attributes = getattr(value, "__dict__", {})
        if isinstance(value, torch.Tensor):
            self._tensor(value, path, slot, "tensor" if kind == "number" else kind, part or _home(path))
        elif isinstance(value, np.ndarray):
            self._array(value, path)
        elif isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            self.found.generators[path] = value
        elif isinstance(value, nn.Module):
            self._module(value, path, depth)
        elif isinstance(value, Optimizer) or ("param_groups" in attributes and "state" in attributes):
            self._optimizer(value, path, depth)
        elif isinstance(value, torch.amp.GradScaler):
            for key, number in value.state_dict().items():
                self._leaf(f"{path}.{key.lstrip('_')}", Leaf(path, "scaler", number), state_slot(value, key))
        elif isinstance(value, LRScheduler):
            self._attributes(value, path, depth, "schedule", part or path, _BOOKKEEPING)
        elif isinstance(value, (Mapping, list, tuple, deque)):
            self._container(value, path, depth, kind, part)
        elif isinstance(value, Iterator):
            self.found.iterators.append(path)
        elif isinstance(value, types.MethodType):
            self._function(value.__func__, depth)
            self._visit(value.__self__, type(value.__self__).__name__, None, depth + 1)
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        elif isinstance(value, type):
            for name, held in class_attributes(value):
                self._visit(held, f"{value.__name__}.{name}", attribute_slot(value, name), depth + 1)
        elif isinstance(value, functools.partial):
            for item in (value.func, *value.args):
                self._visit(item, path, None, depth + 1)
            self._container(value.keywords, path, depth, kind, part)
        else:
            self._attributes(value, path, depth, kind, part)
            self._visit(type(value), type(value).__name__, None, depth)

    def _leaf(self, path: str, leaf: Leaf, slot: Slot | None) -> None:
        if leaf.kind in {"number", "tensor"}:
            self._others += 1
            if self._others > _MOST_OTHERS:
                return
        while path in self.found.leaves:  # another function's variable of the same name
            path += "'"
        self.found.leaves[path] = leaf
        if slot is not None:
            self.found.slots[path] = slot

    def _tensor(self, tensor: torch.Tensor, path: str, slot: Slot | None, kind: Kind, part: str) -> None:
        if tensor.is_meta or is_lazy(tensor):
            return
        try:
            value = sample(tensor)
        except (RuntimeError, NotImplementedError):  # a layout that has no dense form
            return
        in_place = Slot(lambda: tensor, lambda new: fill(tensor, new, slot))
        self._leaf(path, Leaf(part, kind, value, tuple(tensor.shape)), in_place)

    def _array(self, array: np.ndarray[Any, Any], path: str) -> None:
        if array.dtype.kind not in "fiub" or array.size > _LARGEST_ARRAY:
            return
        value = sample(torch.from_numpy(array.copy()))
        slot = Slot(lambda: array, lambda new: array.__setitem__(..., new.numpy().reshape(array.shape)))
        self._leaf(path, Leaf(_home(path), "tensor", value, array.shape), slot)

    def _module(self, module: nn.Module, path: str, depth: int) -> None:
        is_main = module is self._model
        # A module without parameters is a meter or a normaliser: what it holds may be a log.
        beside: Kind = "module" if next(module.parameters(), None) is not None else "tensor"
        for name, parameter in module.named_parameters():
            if id(parameter) not in self._seen:
                self._seen[id(parameter)] = parameter
                self._names[id(parameter)] = name if is_main else f"{path}.{name}"
                self._tensor(parameter, f"{path}.{name}", None, "weight" if is_main else "module", path)
                self._mode(parameter, "requires_grad", f"{path}.{name}.requires_grad")
        for prefix, sub in module.named_modules():
            where = f"{path}.{prefix}" if prefix else path
            if sub is not module and id(sub) in self._seen:
                continue
            self._seen[id(sub)] = sub
            for name, buffer in sub.named_buffers(recurse=False):
                if id(buffer) not in self._seen:
                    self._seen[id(buffer)] = buffer
                    saved = name not in sub._non_persistent_buffers_set
                    kind: Kind = ("buffer" if is_main else beside) if saved else "tensor"
                    self._tensor(buffer, f"{where}.{name}", attribute_slot(sub, name), kind, path if saved else where)
            self._mode(sub, "training", f"{where}.training")
            self._attributes(sub, where, depth, "number", None, _MODULE_INTERNALS)

    def _mode(self, item: Any, name: str, path: str) -> None:
        self._leaf(path, Leaf(path, "mode", getattr(item, name)), attribute_slot(item, name))

    def _optimizer(self, optimizer: Any, path: str, depth: int) -> None:
        for index, group in enumerate(optimizer.param_groups):
            for key, value in group.items():
                if key != "params":
                    self._visit(
                        value, f"{path}.param_groups[{index}].{key}", item_slot(group, key), depth + 1, "option"
                    )
            for position, parameter in enumerate(group["params"]):
                name = self._names.get(id(parameter))
                if name is not None:
                    self._leaf(f"{path}.holds[{name}]", Leaf(path, "held", True), None)
                for key, value in optimizer.state.get(parameter, {}).items():
                    where = f"{path}.state[{name or f'{index}.{position}'}].{key}"
                    self._visit(value, where, item_slot(optimizer.state[parameter], key), depth + 1, "moment", path)
        self._attributes(optimizer, path, depth, "number", None, _OPTIMIZER_INTERNALS)

    def _container(self, items: Any, path: str, depth: int, kind: Kind, part: str | None) -> None:
        if len(items) > _LONGEST:
            self._leaf(f"{path}.length", Leaf(part or path, kind, len(items)), None)
            return
        if type(items) in {dict, defaultdict, OrderedDict, list, deque}:
            self.found.containers[path] = items
        pairs = items.items() if isinstance(items, Mapping) else enumerate(items)
        can_put = hasattr(type(items), "__setitem__")
        for position, (key, value) in enumerate(list(pairs)):
            # A parameter, or its id, is another one in every process; its name is not.
            name = self._names.get(key if type(key) is int else id(key))
            label = name or (repr(key) if isinstance(key, (str, int)) else f"#{position}")
            slot, home = item_slot(items, key) if can_put else None, path if name and part is None else part
            self._visit(value, f"{path}[{label}]", slot, depth + 1, kind, home)

    def _attributes(
        self, item: Any, path: str, depth: int, kind: Kind, part: str | None, skip: frozenset[str] = frozenset()
    ) -> None:
        named = dict(getattr(item, "__dict__", {}))
        if is_dataclass(item):  # with slots it has no __dict__
            named |= {f.name: getattr(item, f.name) for f in fields(item) if hasattr(item, f.name)}
        named |= {name: getattr(item, name) for name in slot_names(type(item)) if hasattr(item, name)}
        for name, value in named.items():
            if name not in skip and not (callable(value) and kind == "schedule"):
                self._visit(value, f"{path}.{name}", attribute_slot(item, name), depth + 1, kind, part)

    def _function(self, function: Any, depth: int) -> None:
        if not isinstance(function, types.FunctionType):
            return
        is_own = is_users(function.__code__.co_filename)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not bound yet
                continue
            if is_own or callable(value):  # a library's decorator holds the user's function
                self._visit(value, name, attribute_slot(cell, "cell_contents"), depth + 1)
        if not is_own:
            return
        for name in sorted(_global_names(function.__code__) & function.__globals__.keys()):
            self._visit(function.__globals__[name], name, item_slot(function.__globals__, name), depth + 1)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if isinstance(default, (dict, list)):  # the mutable default that keeps state between calls
                self._visit(default, function.__name__, None, depth + 1)
        self._attributes(function, function.__name__, depth, "number", None)


def _plain(value: Any) -> Any:
    """The number or text itself, of a built-in type that every process can read."""
    if isinstance(value, np.generic):
        return value.item()
    kind = next((kind for kind in (bool, int, float) if isinstance(value, kind)), None)
    return kind(value) if kind else value if value is None else str.__str__(value)


def _home(path: str) -> str:
    """The object that a tensor belongs to: the container around it, if it is in one."""
    return path.rpartition("[")[0] if path.endswith("]") else path


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names
