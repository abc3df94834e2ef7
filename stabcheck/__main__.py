"""`python -m stabcheck` is `stabcheck`."""

from __future__ import annotations

import sys

from stabcheck.cli import main

if __name__ == "__main__":
    sys.exit(main())
