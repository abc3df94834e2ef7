"""Prints in every way there is."""

import os
import subprocess
import sys

from parts import parts

print("on import")
os.write(1, b"past Python\n")
os.write(1, b"not UTF-8: \xff\xfe\n")
subprocess.run(["echo", "from a child"], check=True)


def setup():
    print("in setup", file=sys.stderr)
    return parts()
