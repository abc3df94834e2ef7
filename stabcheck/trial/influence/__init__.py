"""What reaches what inside a model: parts of its inputs are exchanged, and all that changes with them is noted."""
