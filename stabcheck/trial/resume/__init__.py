"""Saving, loading in a fresh process, and going on."""
