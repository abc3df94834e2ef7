"""Fails on import, as a library built for another torch does."""

from parts import parts  # noqa: F401

raise RuntimeError("operator torchvision::nms does not exist")
