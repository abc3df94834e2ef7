"""A tensor that is too large."""

import torch
from parts import parts, step_of


def fill():
    return torch.empty(2**46, dtype=torch.uint8)


def setup():
    made = parts()
    return {**made, "train_step": step_of(made, before=fill)}
