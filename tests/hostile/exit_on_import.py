"""A script that parses its command line and leaves."""

import sys

sys.exit("usage: train.py --data PATH")
