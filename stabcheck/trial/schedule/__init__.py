"""The learning rates of the planned run, without training it."""
