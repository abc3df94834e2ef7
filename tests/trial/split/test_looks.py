"""Samples as a report shows them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from stabcheck.setup import TrainingSetup
from stabcheck.trial.split.looks import look
from stabcheck.trial.split.sides import Split, open_split
from tests.experiments.split_cases import SENTENCES, setup


def opened(inputs: Any) -> Split:
    labels = np.arange(len(inputs)) % 2
    return open_split(TrainingSetup(**setup((inputs, labels, inputs[:20], labels[:20]))()), 5.0)


def looks(inputs: Any, row: int = 0) -> Any:
    split = opened(inputs)
    pair = split.largest()
    return look(split.train, pair[0] if pair else None, row)


def pixels(image: dict[str, Any]) -> Any:
    data = np.frombuffer(base64.b64decode(image["pixels"]), np.uint8)
    return data.reshape(image["height"], image["width"], image["channels"])


@pytest.mark.parametrize(("shape", "channels"), [((1, 12, 9), 1), ((3, 12, 9), 3), ((12, 9, 3), 3), ((12, 9), 1)])
def test_an_image_is_shown_in_its_own_shape(shape: tuple[int, ...], channels: int) -> None:
    inputs = np.random.default_rng(0).random((40, *shape), np.float32)

    found = looks(inputs, 3)["image"]

    seen = pixels(found)
    assert seen.shape == (12, 9, channels)
    whole = inputs[3].transpose(1, 2, 0) if len(shape) == 3 and shape[0] == channels else inputs[3].reshape(12, 9, -1)
    expected = (whole - whole.min()) / (whole.max() - whole.min()) * 255
    assert np.abs(seen - expected).max() <= 0.5 + 1e-3


def test_a_large_image_is_shrunk_to_the_means_of_its_parts() -> None:
    inputs = np.random.default_rng(0).random((40, 1, 128, 64), np.float32)

    seen = pixels(looks(inputs)["image"])

    parts = inputs[0, 0].reshape(32, 4, 16, 4).mean(axis=(1, 3))
    expected = (parts - parts.min()) / (parts.max() - parts.min()) * 255
    assert seen.shape == (32, 16, 1)
    assert np.abs(seen[..., 0] - expected).max() <= 0.5 + 1e-3


def test_a_size_that_does_not_divide_is_shrunk_too() -> None:
    inputs = np.random.default_rng(0).random((40, 1, 101, 37), np.float32)
    assert pixels(looks(inputs)["image"]).shape == (32, 12, 1)


def test_an_image_of_one_colour_or_with_missing_values_is_an_image() -> None:
    inputs = np.zeros((40, 1, 8, 8), np.float32)
    inputs[1:] = np.random.default_rng(0).random((39, 1, 8, 8))
    inputs[1, 0, 0, 0] = np.nan

    assert pixels(looks(inputs, 0)["image"]).max() == 0
    assert pixels(looks(inputs, 1)["image"]).max() == 255


def test_a_row_of_a_table_is_its_first_numbers_and_a_text_its_beginning() -> None:
    table = np.random.default_rng(0).random((40, 30)).astype(np.float32)

    assert looks(table, 2) == {"numbers": [pytest.approx(v, rel=1e-3) for v in table[2, :8].tolist()]}
    assert looks(["x" * 999, *SENTENCES]) == {"text": "x" * 160}


def test_a_sample_whose_values_were_not_kept_is_not_shown() -> None:
    split = opened(np.random.default_rng(0).random((40, 5)).astype(np.float32))
    pair = split.largest()

    assert pair is not None
    assert look(split.train, pair[0], 40) is None
    assert look(split.train, None, 0) is None
