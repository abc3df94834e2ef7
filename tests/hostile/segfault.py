"""A step that crashes the interpreter."""

import ctypes

from parts import parts, step_of


def crash():
    ctypes.string_at(0)


def setup():
    made = parts()
    return {**made, "train_step": step_of(made, before=crash)}
