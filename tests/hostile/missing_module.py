"""Needs what is not installed."""

import a_module_that_is_not_there


def setup():
    return a_module_that_is_not_there.parts()
