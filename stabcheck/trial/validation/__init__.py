"""The validation under observation."""
