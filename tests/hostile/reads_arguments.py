"""Parses the command line, which is not its own."""

import argparse

from parts import parts


def setup():
    argparse.ArgumentParser().parse_args()
    return parts()
