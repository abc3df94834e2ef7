"""What half precision and small integers do to a set-up's numbers."""
