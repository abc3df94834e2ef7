"""C code that holds the interpreter lock for ever."""

import ctypes

from parts import parts, step_of


def wait():
    ctypes.PyDLL(None).sleep(1000)


def setup():
    made = parts()
    return {**made, "train_step": step_of(made, before=wait)}
