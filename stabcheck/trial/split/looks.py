"""What a sample looks like, small enough for a report: a little image, the beginning of a text, or the first numbers."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from stabcheck.trial.split.sides import Side
from stabcheck.trial.split.table import Column

Array = np.ndarray[Any, Any]

SIDE = 32
"""Pixels of the longer side of an image in the report; enough to tell whether two show the same."""

SMALLEST, LARGEST = 8, 8192
"""Sides of what is taken for an image. A narrower array is rather a table or a series of several channels."""

CHANNELS = (1, 3)

LETTERS, NUMBERS = 160, 8
"""Of a text and of a row of numbers."""


def look(side: Side, column: Column | None, row: int) -> dict[str, Any] | None:
    """The sample in a row of the side's table, by its largest leaf; None where its values were not kept.

    {"image": {"width", "height", "channels", "pixels": bytes as base64, row by row}}, {"text": ...} or {"numbers": [...]}.
    """
    kept = side.table.kept
    place = int(np.searchsorted(kept, row))
    if column is None or place >= len(kept) or kept[place] != row:
        return None
    value = column.rows[place]
    if isinstance(value, str):
        return {"text": value[:LETTERS]}
    image = _image(value, column.shape)
    if image is not None:
        height, width, channels = image.shape
        pixels = base64.b64encode(image.tobytes()).decode()
        return {"image": {"width": width, "height": height, "channels": channels, "pixels": pixels}}
    return {"numbers": [float(f"{number:.4g}") for number in value[:NUMBERS].tolist()]}


def _image(value: Array, shape: tuple[int, ...]) -> Array | None:
    """(height, width, 1 or 3) bytes, the darkest value 0 and the brightest 255; None if this is no image."""
    if len(shape) == 3 and shape[0] in CHANNELS:
        picture = value.reshape(shape).transpose(1, 2, 0)
    elif len(shape) == 3 and shape[2] in CHANNELS:
        picture = value.reshape(shape)
    elif len(shape) == 2:
        picture = value.reshape(*shape, 1)
    else:
        return None
    height, width, _ = picture.shape
    if min(height, width) < SMALLEST or max(height, width) > LARGEST:
        return None
    picture = _shrunk(np.nan_to_num(picture.astype(np.float64), posinf=0.0, neginf=0.0))
    low, high = float(picture.min()), float(picture.max())
    return np.asarray((picture - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)


def _shrunk(picture: Array) -> Array:
    """Means over blocks, so that the longer side has at most SIDE pixels."""
    rows, columns = (_blocks(length, max(picture.shape[:2])) for length in picture.shape[:2])
    for axis, starts in ((0, rows), (1, columns)):
        sizes = np.diff([*starts, picture.shape[axis]])
        shape = [1, 1, 1]
        shape[axis] = -1
        picture = np.add.reduceat(picture, starts, axis=axis) / sizes.reshape(shape)
    return picture


def _blocks(length: int, longest: int) -> list[int]:
    """Where the blocks of an axis begin."""
    count = max(1, round(length * min(1.0, SIDE / longest)))
    return [i * length // count for i in range(count)]
