"""Calls stabcheck when it is imported."""

from parts import parts

import stabcheck

stabcheck.run("checks_itself.py:setup")


def setup():
    return parts()
