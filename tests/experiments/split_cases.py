"""Small data of many kinds, honestly split, and the ways in which training samples get into validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

Array = Any
Sides = tuple[Array, Array, Array, Array]
"""Training inputs and labels, validation inputs and labels."""

SENTENCES = [
    f"{who} {did} the {what} {where}, and {who} did so {how}"
    for who in ("the old captain", "a young clerk", "my neighbour", "the second witness", "his sister")
    for did in ("carried", "sold", "hid", "painted", "forgot")
    for what in ("blue lantern", "heavy ledger", "broken clock", "letter")
    for where in ("behind the mill", "at the harbour", "in the chapel")
    for how in ("twice", "in vain", "last winter")
]


class Listed(Dataset[Any]):
    """Samples of any kind from lists."""

    def __init__(self, inputs: Any, labels: Any) -> None:
        self.inputs, self.labels = list(inputs), list(labels)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], int(self.labels[index])


def dataset(inputs: Any, labels: Any) -> Dataset[Any]:
    if isinstance(inputs, list):
        return Listed(inputs, labels)
    return TensorDataset(torch.as_tensor(np.ascontiguousarray(inputs)), torch.as_tensor(np.asarray(labels)))


def setup(sides: Sides, **more: Any) -> Callable[[], dict[str, Any]]:
    """An entry function for these sides; the model is never run."""
    train, val = dataset(*sides[:2]), dataset(*sides[2:])
    return loaders(DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=16), **more)


def loaders(train: Any, val: Any, **more: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {
        "model": nn.Linear(1, 1),
        "train_loader": train,
        "val_loader": val,
        "loss_fn": nn.CrossEntropyLoss(),
        **more,
    }


def halved(inputs: Any, labels: Array, rng: np.random.Generator) -> Sides:
    """A random split, a quarter for validation."""
    order = rng.permutation(len(labels))
    val, train = order[: len(order) // 4], order[len(order) // 4 :]
    if isinstance(inputs, list):
        return [inputs[i] for i in train], labels[train], [inputs[i] for i in val], labels[val]
    return inputs[train], labels[train], inputs[val], labels[val]


# --- honest splits


def images(rng: np.random.Generator, count: int = 600) -> tuple[Array, Array]:
    """Smooth pictures of ten kinds, (n, 1, 12, 12), one in twenty of them blank."""
    labels = rng.integers(0, 10, count)
    kinds = rng.normal(size=(10, 1, 12, 12)).cumsum(2).cumsum(3)
    pictures = kinds[labels] + rng.normal(size=(count, 1, 12, 12)).cumsum(2).cumsum(3)
    pictures[rng.random(count) < 0.05] = 1.0
    return pictures.astype(np.float32), labels


def table(rng: np.random.Generator, count: int = 500) -> tuple[Array, Array]:
    """Correlated measurements in very different units."""
    cause = rng.normal(size=(count, 4))
    rows = cause @ rng.normal(size=(4, 9)) + 0.3 * rng.normal(size=(count, 9))
    return (rows * np.logspace(-2, 3, 9)).astype(np.float32), (cause[:, 0] > 0).astype(int)


def flowers(rng: np.random.Generator) -> tuple[Array, Array]:
    """Four lengths to the tenth of a centimetre, in which a few flowers agree."""
    labels = rng.integers(0, 3, 150)
    rows = np.round(np.array([[5, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3, 5.5, 2]])[labels], 1)
    return np.round(rows + rng.normal(size=(150, 4)) * [0.4, 0.3, 0.3, 0.15], 1).astype(np.float32), labels


def answers(rng: np.random.Generator) -> tuple[Array, Array]:
    """Twelve yes-or-no answers, and one in ten who ticks everything."""
    leaning = 2 * rng.normal(size=(1200, 1))
    rows = (rng.random((1200, 12)) < 1 / (1 + np.exp(-leaning))).astype(np.float32)
    rows[rng.random(1200) < 0.1] = 1
    return rows, rng.integers(0, 2, 1200)


def categories(rng: np.random.Generator) -> tuple[Array, Array]:
    """One-hot columns of five categories."""
    picks = [rng.integers(0, size, 1500) for size in (5, 7, 4, 9, 3)]
    columns = [np.eye(size, dtype=np.float32)[pick] for pick, size in zip(picks, (5, 7, 4, 9, 3), strict=True)]
    return np.concatenate(columns, axis=1), rng.integers(0, 2, 1500)


def tokens(rng: np.random.Generator) -> tuple[Array, Array]:
    return np.minimum(rng.zipf(1.4, (1200, 8)), 400).astype(np.int64), rng.integers(0, 2, 1200)


def words(rng: np.random.Generator) -> tuple[list[str], Array]:
    """Words as they come in a text: the frequent ones again and again."""
    found = " ".join(SENTENCES).split()
    return [found[i] for i in rng.integers(0, len(found), 900)], rng.integers(0, 2, 900)


def sentences(rng: np.random.Generator) -> tuple[list[str], Array]:
    return list(SENTENCES), rng.integers(0, 2, len(SENTENCES))


def sums(rng: np.random.Generator) -> tuple[Array, Array]:
    """All pairs of numbers, each once."""
    pairs = np.stack(np.divmod(np.arange(41 * 41), 41), axis=1)
    return pairs, pairs.sum(axis=1) % 41


def nothing_but_ones(rng: np.random.Generator) -> tuple[Array, Array]:
    return np.ones((200, 3, 8, 8), np.float32), rng.integers(0, 2, 200)


def windows(rng: np.random.Generator, stride: int = 2, gap: int = 0) -> Sides:
    """Windows of one series, the later ones for validation."""
    time = np.arange(2000)
    series = np.sin(time / 9) + 0.5 * np.sin(time / 23 + rng.random()) + 0.05 * rng.normal(size=2000)
    rows = np.stack([series[i : i + 40] for i in range(0, 1960, stride)]).astype(np.float32)[:, :, None]
    cut = int(0.75 * len(rows))
    return rows[:cut], rows[:cut, -1], rows[cut + gap :], rows[cut + gap :, -1]


def sequels(rng: np.random.Generator) -> Sides:
    """What each user bought, shifted by one for validation, as recommenders are evaluated."""
    bought = rng.integers(1, 500, (500, 21))
    return bought[:, :-1], bought[:, -1], bought[:, 1:], rng.integers(1, 500, 500)


def scenes(rng: np.random.Generator) -> Sides:
    """Twenty frames each of forty scenes, split by scene."""
    rows = (np.repeat(rng.normal(size=(40, 64)), 20, axis=0) + 0.05 * rng.normal(size=(800, 64))).astype(np.float32)
    scene = np.repeat(np.arange(40), 20)
    return rows[scene < 30], scene[scene < 30] % 3, rows[scene >= 30], scene[scene >= 30] % 3


def enlarged_training(rng: np.random.Generator) -> Sides:
    """Oversampled and noisy copies, of the training side alone."""
    inputs, labels, *val = halved(*table(rng), rng)
    rare = rng.choice(np.flatnonzero(labels == 1), 150)
    noisy = inputs + 0.01 * inputs.std(axis=0) * rng.normal(size=inputs.shape)
    return (
        np.concatenate([inputs, inputs[rare], noisy.astype(np.float32)]),
        np.concatenate([labels, labels[rare], labels]),
        *val,
    )


RANDOM: dict[str, Callable[[np.random.Generator], tuple[Any, Array]]] = {
    function.__name__: function
    for function in (images, table, flowers, answers, categories, tokens, words, sentences, sums, nothing_but_ones)
}
HONEST: dict[str, Callable[[np.random.Generator], Sides]] = {
    **{name: lambda rng, make=make: halved(*make(rng), rng) for name, make in RANDOM.items()},
    "windows, no gap": windows,
    "windows, gap": lambda rng: windows(rng, gap=20),
    "sequels": sequels,
    "scenes": scenes,
    "enlarged training": enlarged_training,
}


# --- leaks


def leak(sides: Sides, share: float, rng: np.random.Generator, version: Callable[[Array], Array] = np.copy) -> Sides:
    """Put versions of random training samples, with their labels, in the place of a share of the validation samples."""
    inputs, labels, val_inputs, val_labels = sides
    count = round(share * len(val_labels))
    taken = rng.choice(len(labels), count, replace=False)
    places = rng.choice(len(val_labels), count, replace=False)
    val_labels = np.array(val_labels)
    val_labels[places] = np.asarray(labels)[taken]
    if isinstance(inputs, list):
        texts = list(val_inputs)
        for place, index in zip(places, taken, strict=True):
            texts[place] = str(version(inputs[index]))
        return inputs, labels, texts, val_labels
    val_inputs = val_inputs.copy()
    val_inputs[places] = version(inputs[taken])
    return inputs, labels, val_inputs, val_labels
