from __future__ import annotations

import itertools
import math
from collections import OrderedDict, UserDict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.setup import KEYS, SetupError, TrainingSetup, as_setup

MODEL = nn.Linear(2, 1)
LOADER = [(torch.zeros(4, 2), torch.zeros(4, 1))]
NEEDED = {"model": MODEL, "train_loader": LOADER}


class Again:
    """Its own iterator, which starts again at each iter(), as DALI's do."""

    def __iter__(self) -> Iterator[Any]:
        self.left = 2
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left


@pytest.mark.parametrize(
    "value",
    [
        NEEDED,
        OrderedDict(NEEDED),
        UserDict(NEEDED),
        TrainingSetup(**NEEDED),
        (MODEL, LOADER),
        {**NEEDED, "val_loader": None, "accumulate_steps": None, "precision": None},
        {**NEEDED, "train_loader": DataLoader(TensorDataset(torch.zeros(4, 2)))},
        {**NEEDED, "train_loader": Again()},
        {**NEEDED, "loss_fn": nn.MSELoss(), "optimizer": torch.optim.SGD(MODEL.parameters(), 0.1)},
    ],
)
def test_what_can_be_meant_is_taken(value: object) -> None:
    setup = as_setup(value)

    assert setup.model is MODEL
    assert (setup.accumulate_steps, setup.precision) == (1, "fp32")


def test_tuple_of_three_has_the_validation_loader() -> None:
    other = list(LOADER)

    assert as_setup((MODEL, LOADER, other)).val_loader is other


def test_numbers_of_any_library_become_plain_ones() -> None:
    numbers = {"max_steps": np.int64(5), "max_epochs": 1e2, "clip_grad_norm": np.float32(0.5), "accumulate_steps": 2}

    setup = as_setup({**NEEDED, **numbers})

    values = [getattr(setup, key) for key in numbers]
    assert values == [5, 100, 0.5, 2]
    assert [type(value) for value in values] == [int, int, float, int]


def test_clipping_at_infinity_is_none() -> None:
    assert as_setup({**NEEDED, "clip_grad_norm": math.inf}).clip_grad_norm is None


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None:
    """Never awaited."""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "it returned None: return the dict of objects (is a 'return' missing?)"),
        (MODEL, "it returned a Linear: return a dict with at least 'model' and 'train_loader'"),
        ([MODEL, LOADER], "it returned a list: return a dict"),
        (SimpleNamespace(**NEEDED), "it returned a SimpleNamespace: return a dict"),
        ((MODEL,), "it returned a tuple of 1: a tuple means (model, train_loader[, val_loader])"),
        (generator(), "it returned a generator: return a dict"),
        (coroutine(), "it is an async function: make it a plain one"),
        ({"model": MODEL}, "the key 'train_loader' is missing"),
        ({**NEEDED, "optimiser": 1}, "unknown key 'optimiser' (did you mean 'optimizer'?); the keys are model, "),
        ({**NEEDED, 3: 1}, "unknown key 3; the keys are"),
    ],
)
def test_what_is_no_set_up_is_refused(value: object, says: str) -> None:
    with pytest.raises(SetupError) as error:
        as_setup(value)

    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    ("key", "item", "says"),
    [
        ("model", None, "'model' is a NoneType: it must be a torch.nn.Module"),
        ("model", nn.Linear, "'model' is the class Linear: give an instance of it"),
        ("model", lambda x: x, "'model' is a function: it must be a torch.nn.Module"),
        ("model", MODEL.state_dict(), "'model' is an OrderedDict: it must be a torch.nn.Module"),
        ("train_loader", None, "'train_loader' is a NoneType: it must be an iterable of batches"),
        ("train_loader", DataLoader, "'train_loader' is the class DataLoader: give an instance of it"),
        ("train_loader", generator, "'train_loader' is a function: it must be an iterable of batches, such as a DataLoader; call"),
        ("train_loader", generator(), "'train_loader' is a generator, which can be read only once"),
        ("train_loader", iter(LOADER), "'train_loader' is a list_iterator, which can be read only once"),
        ("train_loader", itertools.cycle(LOADER), "'train_loader' is a cycle, which can be read only once"),
        ("train_loader", iter(DataLoader(LOADER)), "'train_loader' is a _SingleProcessDataLoaderIter, which can be read only"),
        ("train_loader", "data/train.csv", "'train_loader' is a str: it must be an iterable of batches"),
        ("train_loader", {"train": LOADER}, "'train_loader' is a dict: it must be an iterable of batches"),
        ("train_loader", TensorDataset(torch.zeros(4)), "'train_loader' is a TensorDataset: it must be an iterable of batches"),
        ("val_loader", 3, "'val_loader' is an int: it must be an iterable of batches"),
        ("loss_fn", "mse", "'loss_fn' is a str: it must be callable"),
        ("loss_fn", nn.MSELoss, "'loss_fn' is the class MSELoss: give an instance, MSELoss()"),
        ("train_step", torch.zeros(1), "'train_step' is a Tensor: it must be callable"),
        ("optimizer", torch.optim.Adam, "'optimizer' is the class Adam: give an instance of it"),
        ("optimizer", "adam", "'optimizer' is a str: it must be a torch.optim.Optimizer"),
        ("optimizer", [1], "'optimizer' is a list with one optimizer in it: give that optimizer itself"),
        ("scheduler", {"a": 1, "b": 2}, "'scheduler' is a dict of 2: give the scheduler of the main model, or leave"),
        ("scheduler", 0.1, "'scheduler' is a float: it must be a torch.optim.lr_scheduler.LRScheduler"),
        ("scheduler_interval", "steps", "'scheduler_interval' is 'steps' (did you mean 'step'?): it must be one of step, epoch"),
        ("precision", torch.bfloat16, "'precision' is torch.bfloat16: it must be one of fp32, bf16, fp16"),
        ("max_steps", "100", "'max_steps' is '100': it must be a whole number above zero, or left out"),
        ("max_steps", 0, "'max_steps' is 0: it must be a whole number above zero"),
        ("max_steps", 1.5, "'max_steps' is 1.5: it must be a whole number above zero"),
        ("max_steps", math.inf, "'max_steps' is inf: it must be a whole number above zero"),
        ("max_epochs", True, "'max_epochs' is True: it must be a whole number above zero"),
        ("clip_grad_norm", 0, "'clip_grad_norm' is 0: it must be a number above zero, or left out"),
        ("clip_grad_norm", math.nan, "'clip_grad_norm' is nan: it must be a number above zero"),
        ("save", print, "'save' is given without 'load': a checkpoint is tested by both together"),
        ("load", print, "'load' is given without 'save': a checkpoint is tested by both together"),
    ],
)  # fmt: skip
def test_wrong_value_is_named_with_what_to_give(key: str, item: object, says: str) -> None:
    with pytest.raises(SetupError) as error:
        as_setup({**NEEDED, key: item})

    assert str(error.value).startswith(says)


def test_dict_of_loaders_and_dataset_say_what_to_do() -> None:
    with pytest.raises(SetupError, match=r"give one of its values \('train', 'val'\)"):
        as_setup({**NEEDED, "train_loader": {"train": LOADER, "val": LOADER}})
    with pytest.raises(SetupError, match=r"wrap the dataset, DataLoader\(dataset, batch_size=...\)"):
        as_setup({**NEEDED, "train_loader": TensorDataset(torch.zeros(4))})


def test_two_losses_are_one_too_many() -> None:
    with pytest.raises(SetupError, match="both 'loss_fn' and 'compute_loss' are given: keep one"):
        as_setup({**NEEDED, "loss_fn": nn.MSELoss(), "compute_loss": print})


def test_every_key_can_be_given_in_a_dict() -> None:
    assert set(KEYS) == {"model", "train_loader"} | set(TrainingSetup(model=MODEL, train_loader=LOADER).__dict__)
