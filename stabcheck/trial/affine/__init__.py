"""Layers that are one affine map together: finding them on one forward, and proving it on three."""
