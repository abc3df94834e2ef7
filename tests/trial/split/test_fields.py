"""Samples of any form come apart into leaves, and inputs, labels and running numbers are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from stabcheck.trial.split.fields import Roles, leaves, roles
from stabcheck.userland import UserCodeError


class Pair(NamedTuple):
    image: torch.Tensor
    label: int


@dataclass
class Point:
    position: list[float]
    name: str


def test_leaves_by_path() -> None:
    found = leaves(
        {"x": torch.ones(2, 2), "meta": {"id": 3, "path": "a.png"}, "ids": [1, 2], "none": None, "call": len}
    )
    assert set(found) == {"x", "meta.id", "meta.path", "ids"}
    assert set(leaves(Pair(torch.ones(1), 2))) == {"image", "label"}
    assert set(leaves(Point([1.0, 2.0], "p"))) == {"position", "name"}
    assert set(leaves(((torch.ones(2), torch.ones(3)), 1))) == {"0.0", "0.1", "1"}
    assert leaves("some text") == {"": "some text"}


def test_numbers_of_every_type_become_arrays() -> None:
    for value in (torch.ones(3, dtype=torch.bfloat16), torch.ones(3).to_sparse(), np.ones(3), [1.0, 1.0, 1.0]):
        leaf = leaves((value, 0))["0"]
        assert isinstance(leaf, np.ndarray)
        assert leaf.tolist() == [1.0, 1.0, 1.0]


def test_what_refers_to_itself_ends() -> None:
    loop: dict[str, Any] = {"x": torch.ones(1)}
    loop["self"] = loop
    assert "x" in leaves(loop)


def test_objects_that_raise_are_blamed_on_the_user() -> None:
    class Sulky:
        def to_dict(self) -> None:
            raise OSError("gone")

    with pytest.raises(UserCodeError, match="sample: OSError: gone"):
        leaves((Sulky(), 1))


def chosen(samples: list[Any], unstable: frozenset[str] = frozenset(), *, pairs: bool = False) -> Roles:
    return roles(samples, unstable, pairs=pairs)


def test_a_loss_fn_makes_the_second_of_two_the_target() -> None:
    assert chosen([(torch.ones(4), torch.ones(4))], pairs=True) == Roles(("0",), None)
    assert chosen([(torch.ones(4), 1)], pairs=True) == Roles(("0",), "1")
    assert chosen([(torch.ones(4), torch.ones(4))]) == Roles(("0", "1"), None)


def test_labels_are_known_by_name() -> None:
    assert chosen([{"input_ids": [1, 2], "attention_mask": [1, 1], "labels": 0}]) == Roles(
        ("input_ids", "attention_mask"), "labels"
    )


def test_what_only_numbers_the_samples_is_ignored() -> None:
    images = [{"image": torch.ones(4), "idx": i, "file": f"{i}.png", "person": i % 3} for i in range(30)]
    assert chosen(images) == Roles(("image", "person"), None, ("idx", "file"))
    texts = [{"text": f"text number {i}", "kind": i % 2} for i in range(30)]
    assert chosen(texts).inputs == ("text", "kind")


def test_a_table_of_single_numbers_is_all_input() -> None:
    rows = [{"age": i, "income": float(i), "target": 1} for i in range(30)]
    assert chosen(rows) == Roles(("age", "income"), "target")


def test_an_image_made_from_its_class_is_compared_whole() -> None:
    assert chosen([(torch.tensor(3), torch.ones(8))], pairs=True).inputs == ("0", "1")


def test_parts_drawn_anew_are_left_out_where_the_sample_itself_is_steady() -> None:
    sample = {"clean": torch.ones(8), "noise": torch.ones(8), "t": 0.5}
    assert chosen([sample], frozenset({"noise", "t"})).inputs == ("clean",)
    captioned = {"image": torch.ones(64), "caption": [1, 2, 3]}
    assert chosen([captioned], frozenset({"image"})).inputs == ("image", "caption")
