"""Leaves torch's global switches changed."""

import os

import torch
from parts import parts


def validate():
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.autograd.set_detect_anomaly(True)
    os.chdir("/")


def setup():
    return parts(validate=validate)
