"""What the user's entry point returns, in its three spellings, and what can be wrong with it.

A `TrainingSetup`, a plain dict with the same keys, or the tuple `(model, train_loader[, val_loader])`
mean the same. Everything here is structural: no user code is run and torch is not imported.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

INTERVALS = ("step", "epoch")
PRECISIONS = ("fp32", "bf16", "fp16")
_CALLABLE_KEYS = (
    "loss_fn",
    "compute_loss",
    "train_step",
    "validate",
    "save",
    "load",
    "sample_key",
    "group_key",
)
_COUNT_KEYS = ("max_steps", "max_epochs", "accumulate_steps")


class SetupError(ValueError):
    """The entry point returned something that is not a training set-up. The message says what and how to mend it."""


@dataclass(kw_only=True)
class TrainingSetup:
    """The objects of one training run, as the user would hand them to their own loop.

    Only `model` and `train_loader` are required; each further key lets more be checked.
    """

    model: Any
    train_loader: Any
    val_loader: Any = None
    loss_fn: Callable[..., Any] | None = None
    compute_loss: Callable[..., Any] | None = None
    optimizer: Any = None
    scheduler: Any = None
    scheduler_interval: str | None = None
    max_steps: int | None = None
    max_epochs: int | None = None
    clip_grad_norm: float | None = None
    accumulate_steps: int = 1
    precision: str = "fp32"
    train_step: Callable[..., Any] | None = None
    validate: Callable[..., Any] | None = None
    save: Callable[..., Any] | None = None
    load: Callable[..., Any] | None = None
    sample_key: Callable[..., Any] | None = None
    group_key: Callable[..., Any] | None = None


KEYS = tuple(f.name for f in fields(TrainingSetup))


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""


def as_setup(value: object) -> TrainingSetup:
    """Turn what an entry point returned into a checked `TrainingSetup`.

    Raises:
        SetupError: the value has the wrong type, a missing or unknown key, or a value that cannot be meant.
    """
    if isinstance(value, TrainingSetup):
        setup = value
    elif isinstance(value, Mapping):
        setup = _from_mapping(value)
    elif isinstance(value, tuple):
        setup = _from_tuple(value)
    elif value is None:
        raise SetupError("it returned None: return the dict of objects (is a 'return' missing?)")
    elif inspect.iscoroutine(value):
        value.close()
        raise SetupError("it is an async function: make it a plain one")
    else:
        raise SetupError(
            f"it returned {_describe(value)}: return a dict with at least 'model' and 'train_loader', "
            "a stabcheck.TrainingSetup, or (model, train_loader[, val_loader])"
        )
    _validate(setup)
    return _normalised(setup)


def _from_mapping(value: Mapping[Any, Any]) -> TrainingSetup:
    for key in value:
        if key not in KEYS:
            raise SetupError(f"unknown key {key!r}{nearest(str(key), KEYS)}; the keys are {', '.join(KEYS)}")
    for key in ("model", "train_loader"):
        if key not in value:
            raise SetupError(f"the key {key!r} is missing; 'model' and 'train_loader' are required")
    given = {key: item for key, item in value.items() if item is not None}
    return TrainingSetup(**{"model": None, "train_loader": None, **given})


def _from_tuple(value: tuple[Any, ...]) -> TrainingSetup:
    if len(value) not in {2, 3}:
        raise SetupError(f"it returned a tuple of {len(value)}: a tuple means (model, train_loader[, val_loader])")
    return TrainingSetup(model=value[0], train_loader=value[1], val_loader=value[2] if len(value) == 3 else None)


def _validate(setup: TrainingSetup) -> None:
    _validate_object("model", setup.model, "named_parameters", "a torch.nn.Module")
    if not callable(setup.model):
        raise SetupError(f"'model' is {_describe(setup.model)}: it must be a torch.nn.Module")
    _validate_loader("train_loader", setup.train_loader)
    if setup.val_loader is not None:
        _validate_loader("val_loader", setup.val_loader)
    for key in _CALLABLE_KEYS:
        item = getattr(setup, key)
        if item is not None and not callable(item):
            raise SetupError(f"{key!r} is {_describe(item)}: it must be callable")
    if inspect.isclass(setup.loss_fn) and hasattr(setup.loss_fn, "forward"):
        raise SetupError(f"'loss_fn' is {_describe(setup.loss_fn)}: give an instance, {setup.loss_fn.__name__}()")
    for key in ("optimizer", "scheduler"):
        _validate_single(key, getattr(setup, key))
    if setup.optimizer is not None:
        _validate_object("optimizer", setup.optimizer, "param_groups", "a torch.optim.Optimizer")
    if setup.scheduler is not None:
        _validate_object("scheduler", setup.scheduler, "step", "a torch.optim.lr_scheduler.LRScheduler")
    if (setup.save is None) != (setup.load is None):
        given, other = ("save", "load") if setup.load is None else ("load", "save")
        raise SetupError(f"{given!r} is given without {other!r}: a checkpoint is tested by both together")
    if setup.loss_fn is not None and setup.compute_loss is not None:
        raise SetupError("both 'loss_fn' and 'compute_loss' are given: keep one")
    _validate_choice("scheduler_interval", setup.scheduler_interval, INTERVALS)
    _validate_choice("precision", setup.precision, PRECISIONS)
    for key in _COUNT_KEYS:
        _validate_number(key, getattr(setup, key), whole=True)
    _validate_number("clip_grad_norm", setup.clip_grad_norm, whole=False)


def _validate_object(key: str, item: object, attribute: str, wanted: str) -> None:
    if inspect.isclass(item):
        raise SetupError(f"{key!r} is {_describe(item)}: give an instance of it")
    if not hasattr(item, attribute):
        raise SetupError(f"{key!r} is {_describe(item)}: it must be {wanted}")


def _validate_single(key: str, item: object) -> None:
    if not isinstance(item, (list, tuple, Mapping)):
        return
    if len(item) == 1:
        raise SetupError(f"{key!r} is {_describe(item)} with one {key} in it: give that {key} itself")
    raise SetupError(
        f"{key!r} is {_describe(item)} of {len(item)}: give the {key} of the main model, or leave {key!r} out, and use "
        "them all in your own 'train_step(batch)', where each one that steps is seen"
    )


def _validate_loader(key: str, loader: Any) -> None:
    wanted = f"{key!r} is {_describe(loader)}: it must be an iterable of batches, such as a DataLoader"
    if inspect.isclass(loader):
        raise SetupError(f"{key!r} is {_describe(loader)}: give an instance of it")
    if inspect.isroutine(loader):
        raise SetupError(f"{wanted}; call the function and give what it returns, if that can be read again and again")
    if isinstance(loader, (str, bytes)):
        raise SetupError(wanted)
    if isinstance(loader, Mapping):
        raise SetupError(f"{wanted}; give one of its values ({', '.join(map(repr, list(loader)[:4]))})")
    if not hasattr(loader, "__iter__"):
        is_dataset = hasattr(loader, "__getitem__")
        raise SetupError(wanted + ("; wrap the dataset, DataLoader(dataset, batch_size=...)" if is_dataset else ""))
    if _is_one_shot(loader):
        raise SetupError(
            f"{key!r} is {_describe(loader)}, which can be read only once: return something that starts "
            "again at each iter(), such as the DataLoader itself or a list"
        )


def _is_one_shot(loader: Any) -> bool:
    """Whether it is an iterator of Python's or torch's own. A class of the user's with `__next__` may well start again
    at each iter(), as those of DALI do."""
    kind = type(loader)
    return hasattr(loader, "__next__") and (
        kind.__module__ in {"builtins", "itertools", "torch.utils.data.dataloader"} or inspect.isgenerator(loader)
    )


def _validate_choice(key: str, value: object, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise SetupError(f"{key!r} is {value!r}{nearest(str(value), known)}: it must be one of {', '.join(known)}")


def _validate_number(key: str, value: Any, *, whole: bool) -> None:
    if value is None:
        return
    kind = "a whole number" if whole else "a number"
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not value > 0 or (whole and not (math.isfinite(value) and float(value).is_integer())):
        raise SetupError(f"{key!r} is {value!r}: it must be {kind} above zero, or left out")


def _normalised(setup: TrainingSetup) -> TrainingSetup:
    """The same with plain numbers, and with the defaults where a key is explicitly None."""
    counts: dict[str, Any] = {"accumulate_steps": 1}
    counts |= {key: int(value) for key in _COUNT_KEYS if (value := getattr(setup, key)) is not None}
    clip = setup.clip_grad_norm
    return replace(
        setup,
        **counts,
        precision=setup.precision or "fp32",
        # Clipping at infinity is a way to have the norm computed.
        clip_grad_norm=float(clip) if clip is not None and math.isfinite(clip) else None,
    )


def _describe(value: object) -> str:
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
