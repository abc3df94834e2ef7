"""Functions that go flat: how far each call is up against its stops, and the same steps with its input scaled down."""
