"""A breakpoint that was left in."""

from parts import parts, step_of


def stop():
    breakpoint()


def setup():
    made = parts()
    return {**made, "train_step": step_of(made, before=stop)}
