"""Optimizers under a magnifying glass: what their options amount to, and how the same steps go with others."""
