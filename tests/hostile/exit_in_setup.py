"""An exit where there ought to be a return."""

import sys


def setup():
    sys.exit(0)
