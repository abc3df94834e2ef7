"""Watching the user's own training step: what each gradient is made of, and what becomes of it."""
