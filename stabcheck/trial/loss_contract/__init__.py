"""What the loss is really given, and whether it answers as a loss should."""
