"""A generator, which can be read once."""

from parts import parts


def setup():
    made = parts()
    return {**made, "train_loader": (batch for batch in made["train_loader"])}
