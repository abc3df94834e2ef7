"""What a model's outputs depend on: parts of its inputs are exchanged, and all that changes with them is noted."""
