"""What the loaders give to training and validation: whether it is whole, fits the model, and means on both sides the same."""
