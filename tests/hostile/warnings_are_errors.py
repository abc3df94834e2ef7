"""Every warning is an error."""

import warnings

from parts import parts

warnings.simplefilter("error")


def setup():
    warnings.simplefilter("error")
    return parts()
